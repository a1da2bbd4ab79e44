"""The ways a command may end other than well, each with the exit code that a shell sees."""

import difflib
from collections.abc import Iterable


class ElboBenchError(Exception):
    """An end that is explained to the user in one line, without a traceback."""

    exit_code: int


class UsageError(ElboBenchError):
    """The input is bad: nothing was computed and nothing was written."""

    exit_code = 2


class RunFailedError(ElboBenchError):
    """The run broke on the way: a number is not finite, or a file became unusable."""

    exit_code = 3


class StoppedError(ElboBenchError):
    """A signal stopped the run after it had saved; the same command resumes it."""

    exit_code = 75


def nearest(name: object, choices: Iterable[str]) -> str:
    """Say which of `choices` the user may have meant by `name`.

    Returns:
        `"did you mean 'x'?"` if one of them is close, else the list of all of them.
    """
    valid = sorted(choices)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(valid)}" if valid else "there is none"
