"""Targets of `cgt export`, one module each, named as people type it (`cgt export --format torch-export`).

A module defines

    OPTIONS: frozenset[str]     which fields of `Options` it takes, beside `verify`; others are refused
    WITH_DISCRIMINATOR: bool    whether it has a use for the model's discriminator
    KIND: FolderKind            what its folder holds: such a one may be replaced
    export(model: Model, folder: Path, options: Options) -> Written

`folder` is there, empty, and renamed to its place when all has gone well; so a module writes there as it
likes. It raises UserError for a model that it can't export, before any long work, and where `options.verify`
is set, RunError for what it has written and read again and found to be something else. It writes no card
(README.md): that is made of what it returns, and put below the one that it may have written for its own.

`Model`, `Options` and `Written` are in `base`; `folded` in `graphs`, and `measure` in `parity`, are what
targets for inference share.
"""

INFRASTRUCTURE = frozenset({"base", "card", "graphs", "parity", "writing"})
