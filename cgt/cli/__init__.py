"""The command line: one module a verb, which parses, calls and prints.

Verbs import what is heavy inside their functions, and only the verb that is called is imported at all, so
that help comes in less than half a second.

Exit codes: 0 done, 2 the user's input, 75 preempted with a checkpoint written, 130 interrupted, 1 everything
else.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

from cgt import __version__
from cgt.errors import PreemptedError, RunError, SaidElsewhereError, UserError
from cgt.files import no_room
from cgt.launching import COMMAND, INTERRUPTED, leave, say

VERBS = {
    "demo": "demo",
    "shards": "app",
    "features": "app",
    "pretrain": "pretrain",
    "transfer": "transfer",
    "banks": "app",
    "eval": "evaluate",
    "sample": "sample",
    "report": "report",
    "convert": "convert",
    "export": "export",
    "launch": "app",
    "doctor": "doctor",
}
"""What each verb's module calls it: a function, or `app` for a group of verbs. In the order of the work."""


def script() -> NoReturn:
    """`cgt` as a process of its own, which ends with the exit code of `main`."""
    try:
        code = main()
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv` (without the program's name; None: the process's own) and return the exit code.

    Mistakes that a person is meant to read go to stderr without a traceback; a defect keeps its traceback.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    COMMAND.set(words)
    try:
        _parser(words[:1] if words and words[0] in VERBS else list(VERBS))(words, prog_name="cgt")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code == INTERRUPTED:
            say("interrupted")
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except (UserError, RunError) as error:
        say(f"error: {error}")
        return 2 if isinstance(error, UserError) else 1
    except PreemptedError as error:
        say(str(error))
        return PreemptedError.CODE
    except SaidElsewhereError as error:
        return error.code
    except Exception as error:
        if reason := no_room(error):
            say(f"error: {reason}. Free some space, or work on another disk, and run the command again.")
            return 1
        from cgt.data.workers import killed_worker  # torch tells of one wherever the program then is

        if reason := killed_worker(error):
            say(f"error: {reason}")
            return 1
        raise
    return 0


def _parser(verbs: Sequence[str]) -> TyperGroup:
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback()(_overview)
    for verb in verbs:
        target = getattr(importlib.import_module(f"cgt.cli.{verb}"), VERBS[verb])
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=verb)
        else:
            app.command(verb)(target)
    parser = typer.main.get_command(app)
    assert isinstance(parser, TyperGroup)
    parser.commands = {verb: parser.commands[verb] for verb in verbs}  # typer lists groups last
    _list_in_full(parser)
    return parser


def _list_in_full(group: TyperGroup) -> None:
    """Have lists of verbs show the whole first paragraph of each one's help; by default it is cut short."""
    for command in group.commands.values():
        command.short_help = " ".join((command.help or "").partition("\n\n")[0].split())
        if isinstance(command, TyperGroup):
            _list_in_full(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cgt {__version__}")
        raise typer.Exit


def _overview(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow a class-conditional image generator by new classes from few pictures, without spoiling what it
    already makes.

    The way of the work: pictures -> shards -> pretrain -> transfer -> eval, sample, report. `cgt demo` walks
    all of it on built-in pictures.
    """
