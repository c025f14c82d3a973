"""Published checkpoint formats, one module each, named as people type it (`cgt convert biggan-pytorch`).

A module defines

    convert(input: Path, *, weights: Path | None, classes: Sequence[str] | None)
        -> tuple[Generator, Discriminator | None, dict[str, Any]]

and raises UserError for whatever is wrong with the files. The dict is the provenance for the model folder:
`format`, `files` (name to SHA-256), `unused_keys` (last part of the key to how many) and whatever else of the
origin is worth keeping. Nothing in a file is ever executed.
"""

INFRASTRUCTURE = frozenset({"pickles", "weights"})
