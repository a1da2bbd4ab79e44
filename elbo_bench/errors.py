"""The ways a command may end other than well, each with the exit code that a shell sees."""

import difflib
import json
from collections.abc import Iterable


class ElboBenchError(Exception):
    """An end that is explained to the user in one line, without a traceback."""

    exit_code: int


class UsageError(ElboBenchError):
    """The input is bad: nothing was computed and nothing was written."""

    exit_code = 2


class BusyError(ElboBenchError):
    """Another process computes the same run at this moment: nothing is wrong, and the same command will do later."""

    exit_code = 75


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
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(valid)}" if valid else "there is none"


def in_a_line(error: BaseException) -> str:
    """Return what an error says in one line, with its kind if it is not ours."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ElboBenchError) else f"{type(error).__name__}: {words}"[:300]


def memory_problem(error: BaseException) -> str | None:
    """Return in one line that memory ran out, or None: Python and NumPy have an error for it, torch has words."""
    lines = str(error).splitlines() or ["no memory is left"]
    words = ("allocate", "Storage size")
    return lines[0] if isinstance(error, MemoryError) or any(word in lines[0] for word in words) else None


def peer_problem(error: BaseException) -> bool:
    """Return whether a collective failed since another process of the run is gone; Gloo and NCCL have words for it."""
    words = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "Timeout", "connectFullMesh")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def printable(text: str) -> str:
    """Return text as it may stand on a terminal: what was read from a file must not move its cursor."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shown(value: object) -> str:
    """Return a value of a configuration as the user would write it: null and true, not None and True."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
