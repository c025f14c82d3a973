"""Whether a shard folder is what its manifest says, down to every picture."""

import collections
import signal
from collections.abc import Callable
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from cgt.data.hashed import HashedStream, hashed_samples
from cgt.data.keys import Place, double_keys, key_digest
from cgt.data.manifest import Shard, ShardFolder
from cgt.data.pool import worker_pool
from cgt.data.samples import DamagedShardError, decode, open_shard
from cgt.errors import RunError
from cgt.wording import counted


class Finding(NamedTuple):
    """What checking one shard found."""

    problems: list[str]
    keys: bytes
    """`key_digest` of its keys, joined, as far as it could be read."""


def problems(
    folder: ShardFolder,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    workers: int = 1,
) -> list[str]:
    """Everything that is wrong: sizes, hashes, samples, counts, undecodable pictures, keys, stray files.

    The list does not depend on the number of workers.

    Args:
        folder: a local one or a URL.
        progress: called with the pictures done and their total, whenever a shard is done.
        workers: processes that read and decode, a shard at a time.

    Raises:
        RunError: a URL can't be read, or a worker was killed.
    """
    shards = folder.manifest.shards
    findings = _findings(folder, progress, workers)
    found = [problem for finding in findings for problem in finding.problems]
    places = [Place(folder, shard) for shard in shards]
    for double in double_keys(places, [finding.keys for finding in findings]):
        first, second = double.first.shard.file, double.second.shard.file
        found.append(f"{second}: the key {double.key} is in the folder twice, the first time in {first}")
    if folder.local:
        listed = {shard.file for shard in shards}
        stray = sorted(path.name for path in Path(folder.location).glob("*.tar") if path.name not in listed)
        found += [f"{name} is not in the manifest: move it elsewhere" for name in stray]
    return found


def _findings(folder: ShardFolder, progress: Callable[[int, int], None], workers: int) -> list[Finding]:
    """What is to say of each shard, in stored order."""
    shards = folder.manifest.shards
    done, total = 0, folder.manifest.samples
    progress(done, total)
    try:
        with worker_pool(min(workers, len(shards)), _prepare, (folder,)) as pool:
            futures = {pool.submit(_check, number): number for number in range(len(shards))}
            try:
                for future in as_completed(futures):
                    future.result()
                    done += shards[futures[future]].samples
                    progress(done, total)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except (BrokenProcessPool, MemoryError) as error:
        raise RunError(
            "a worker process ended before its work was done, most likely for lack of memory: run the "
            "command again, with fewer --workers."
        ) from error
    return [future.result() for future in futures]


_folder: ShardFolder | None = None
"""What a worker process was started for."""


def _prepare(folder: ShardFolder) -> None:
    global _folder
    _folder = folder
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shard takes long, and nothing of it needs an end


def _check(number: int) -> Finding:
    assert _folder is not None
    return _of_shard(_folder, _folder.manifest.shards[number])


def _of_shard(folder: ShardFolder, shard: Shard) -> Finding:
    """What is wrong with one shard, which is read once and never held whole."""
    if folder.local and (misfit := folder.misfit(shard)):
        return Finding([misfit], b"")
    found: list[str] = []
    keys = bytearray()
    misfit = None
    try:
        with open_shard(folder, shard) as raw:
            stream = HashedStream(raw)
            _read(folder, shard, stream, found, keys)
            misfit = stream.misfit(shard)
    except DamagedShardError as error:
        found.append(f"{shard.file}: {error.reason}")
    return Finding([f"{shard.file} {misfit}", *found] if misfit else found, bytes(keys))


def _read(folder: ShardFolder, shard: Shard, stream: HashedStream, found: list[str], keys: bytearray) -> None:
    """Read and decode the samples; what is wrong goes to `found`, `key_digest` of each key to `keys`."""
    counts: collections.Counter[str] = collections.Counter()
    try:
        for sample in hashed_samples(folder, shard, stream):
            counts[folder.manifest.classes[sample.cls]] += 1
            keys += key_digest(sample.key)
            try:
                decode(folder, shard, sample)
            except DamagedShardError as error:
                found.append(f"{shard.file}: {error.reason}")
    except DamagedShardError as error:
        found.append(f"{shard.file}: {error.reason}")
        return
    for name in folder.manifest.classes:
        if counts[name] != (listed := shard.counts.get(name, 0)):
            pictures = counted(counts[name], "picture")
            found.append(f"{shard.file} has {pictures} of {name}, the manifest says {listed}")
