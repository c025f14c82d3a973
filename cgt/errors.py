"""Errors that a person is meant to read.

A message names the value, the rule it breaks and the remedy. The command line prints it without a traceback
and turns its type into the exit code.
"""


class UserError(ValueError):
    """The user's input is wrong: nothing was changed on disk. Exit code 2."""


class RunError(RuntimeError):
    """The input was fine, yet the work can't go on (a full disk, a diverged run). Exit code 1."""


class SaidElsewhereError(Exception):
    """Another rank failed, and says why. Its exit code is this one's, too."""

    def __init__(self, rank: int, code: int) -> None:
        super().__init__(f"rank {rank} failed")
        self.code = code


class PreemptedError(Exception):
    """The machine is wanted for something else: the run stopped after a checkpoint, to be resumed.

    Exit code 75 (EX_TEMPFAIL).
    """

    CODE = 75


def reworded(error: UserError | RunError, text: str) -> UserError | RunError:
    """An error of the same meaning that says `text`; subclasses may take more than a text to make."""
    return (UserError if isinstance(error, UserError) else RunError)(text)
