"""Whether a shard folder is what its manifest says, down to every picture."""

import collections
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

from cgt.data.manifest import Shard, ShardFolder
from cgt.data.samples import DamagedShardError, decode, open_shard, read_samples


def problems(
    folder: ShardFolder, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[str]:
    """Everything that is wrong: hashes, samples, keys, counts, pictures that don't decode, stray files.

    Args:
        folder: a local one or a URL.
        progress: called with the shards done and their total.

    Raises:
        RunError: a URL can't be read.
    """
    found = []
    shards = folder.manifest.shards
    keys: set[str] = set()
    for done, shard in enumerate(shards):
        progress(done, len(shards))
        found += _of_shard(folder, shard, keys)
    progress(len(shards), len(shards))
    if folder.local:
        listed = {shard.file for shard in shards}
        stray = sorted(path.name for path in Path(folder.location).glob("*.tar") if path.name not in listed)
        found += [f"{name} is not in the manifest" for name in stray]
    return found


def _of_shard(folder: ShardFolder, shard: Shard, keys: set[str]) -> list[str]:
    """What is wrong with one shard; adds its keys to those seen so far."""
    if folder.local and not Path(folder.place(shard)).is_file():
        return [f"{shard.file} is missing"]
    found = []
    counts: collections.Counter[str] = collections.Counter()
    with open_shard(folder, shard) as stream:
        content = stream.read()
    digest = hashlib.sha256(content).hexdigest()
    if digest != shard.sha256:
        found.append(f"{shard.file} has the SHA-256 {digest}, the manifest says {shard.sha256}")
    try:
        for sample in read_samples(folder, shard, io.BytesIO(content)):
            counts[folder.manifest.classes[sample.cls]] += 1
            if sample.key in keys:
                found.append(f"{shard.file}: the key {sample.key} is in the folder twice")
            keys.add(sample.key)
            try:
                decode(folder, shard, sample)
            except DamagedShardError as error:
                found.append(f"{shard.file}: {error.reason}")
    except DamagedShardError as error:
        found.append(f"{shard.file}: {error.reason}")
    else:
        for name in folder.manifest.classes:
            listed = shard.counts.get(name, 0)
            if counts[name] != listed:
                found.append(
                    f"{shard.file} has {counts[name]} pictures of {name}, the manifest says {listed}"
                )
    return found
