"""Published checkpoint formats, one module each, named as people type it (`cgt convert biggan-pytorch`).

A module defines

    OPTIONS: frozenset[str]      which of the options that not every format has it takes: "source"
    convert(input: Path, *, weights: Path | None, classes: Sequence[str] | None, **options)
        -> tuple[Generator, Discriminator | None, dict[str, Any]]

and raises UserError for whatever is wrong with the files. The program's own labels count the classes of the
generator's last bank. The dict is the provenance for the model folder: `format`, `files` (name to SHA-256),
`left_out` (names of files that nothing was read of), `training` (plain values), `unused_keys` (last part of
the key to how many), for an extended generator `old_classes` (what became of them), and whatever else of the
origin is worth keeping. Nothing in a file is ever executed.
"""

INFRASTRUCTURE = frozenset(
    {
        "biggan_files",
        "biggan_keys",
        "biggan_networks",
        "class_names",
        "originals",
        "pickles",
        "propagation",
        "weights",
    }
)
