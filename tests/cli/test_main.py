"""What every verb has in common: help, exit codes, and messages as they were written."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

import pytest
import typer

from cgt import __version__, cli
from cgt.errors import RunError, UserError

Verb = Callable[[Callable[[], object]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Verb:
    """Gives the command line a verb `try` that does what it is told."""

    def register(function: Callable[[], object]) -> None:
        module = ModuleType("cgt.cli.try")
        vars(module)["attempt"] = lambda: function()
        monkeypatch.setitem(sys.modules, "cgt.cli.try", module)
        monkeypatch.setitem(cli.VERBS, "try", "attempt")

    return register


def raising(error: BaseException) -> Callable[[], object]:
    def function() -> None:
        raise error

    return function


def test_the_verbs_stand_in_the_order_of_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].split("\n")
    words = [line.split()[0] for line in listed if line.startswith("  ") and not line.startswith("   ")]
    assert (
        " ".join(words)
        == "demo shards features pretrain transfer banks eval sample report convert export launch doctor"
    )


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", list(cli.VERBS))
def test_every_verb_has_help(name: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, option]) == 0
    assert f"Usage: cgt {name}" in capsys.readouterr().out


HEAVY = {"torch", "numpy", "PIL", "torchmetrics", "webdataset", "accelerate", "matplotlib", "yaml"}


def test_help_imports_nothing_heavy() -> None:
    """Torch and the like take seconds to import; help must come at once."""
    code = f"""
import sys
from cgt.cli import main
for words in ([], *([verb] for verb in {list(cli.VERBS)})):
    main([*words, "--help"])
    if heavy := {HEAVY!r} & sys.modules.keys():
        sys.exit(f"help of {{words}} imports {{heavy}}")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_arguments_bring_the_help_and_the_code_of_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([]) == 2
    assert "Usage: cgt" in "".join(capsys.readouterr())


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cgt {__version__}\n"


@pytest.mark.parametrize("words", [["trasnfer"], ["--no-such-option"], ["doctor", "--no-such-option"]])
def test_a_usage_error_exits_with_2_and_names_what_was_typed(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert words[-1] in capsys.readouterr().err


def test_a_misspelt_verb_brings_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["trasnfer"])
    assert "Did you mean 'transfer'" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(UserError, 2), (RunError, 1)])
def test_a_mistake_is_printed_as_it_was_written_without_a_traceback(
    error: type[Exception], code: int, verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    message = f"2 mistakes in [red]a[/red].yaml:\n  - {'long ' * 60}line\n  - [/nothing] :smile: 'x' 12"
    verb(raising(error(message)))
    assert cli.main(["try"]) == code
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert captured.out == ""


def test_done_is_0_and_an_exit_of_the_verb_s_own_is_kept(verb: Verb) -> None:
    verb(lambda: None)
    assert cli.main(["try"]) == 0
    verb(raising(typer.Exit(7)))
    assert cli.main(["try"]) == 7


def test_a_full_disk_anywhere_is_explained(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert cli.main(["try"]) == 1
    assert capsys.readouterr().err.startswith("error: no room on the disk (No space left on device). Free")


def test_a_defect_keeps_its_traceback(verb: Verb) -> None:
    verb(raising(ZeroDivisionError("division by zero")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_an_interrupted_verb_says_so_in_one_line(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    verb(raising(KeyboardInterrupt()))
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_ctrl_c_ends_the_process_with_130_and_without_a_traceback() -> None:
    code = """
import signal, sys, time, types
from cgt import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
module = types.ModuleType("cgt.cli.wait")
def wait():
    print("waiting", flush=True)
    time.sleep(60)
module.wait = wait
sys.modules["cgt.cli.wait"] = module
cli.VERBS["wait"] = "wait"
sys.exit(cli.main(["wait"]))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        assert process.stderr.read() == "interrupted\n"


def test_the_package_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cgt", "--version"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, f"cgt {__version__}\n")
    result = subprocess.run([sys.executable, "-m", "cgt", "nothing"], capture_output=True, check=False)
    assert result.returncode == 2
