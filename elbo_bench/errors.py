"""The errors that end a command, each with its exit code."""

import difflib
import json
from collections.abc import Iterable


class ElboBenchError(Exception):
    """An error that is reported in one line, without a traceback."""

    exit_code: int


class UsageError(ElboBenchError):
    """The input is invalid. Nothing was computed or written."""

    exit_code = 2


class BusyError(ElboBenchError):
    """Another process is computing the same run. Repeat the command later."""

    exit_code = 75


class RunFailedError(ElboBenchError):
    """The run failed: a value is not finite, or a file became unusable."""

    exit_code = 3


class StoppedError(ElboBenchError):
    """A signal stopped the run after a checkpoint. The same command resumes it."""

    exit_code = 75


def nearest(name: object, choices: Iterable[str]) -> str:
    """Return a suggestion for a wrong name.

    Returns:
        `"did you mean 'x'?"` if one of the choices is similar, otherwise the list of all choices.
    """
    valid = sorted(choices)
    close = difflib.get_close_matches(str(name), valid, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid: {', '.join(valid)}" if valid else "there is none"


def in_a_line(error: BaseException) -> str:
    """Return the message of an error in one line, with the type if it is not an error of this package."""
    words = " ".join(str(error).split())
    return words if isinstance(error, ElboBenchError) else f"{type(error).__name__}: {words}"[:300]


def memory_problem(error: BaseException) -> str | None:
    """Return a line if the error means that memory ran out, otherwise None. torch has no error type for this."""
    lines = str(error).splitlines() or ["no memory is left"]
    words = ("allocate", "Storage size")
    return lines[0] if isinstance(error, MemoryError) or any(word in lines[0] for word in words) else None


def peer_problem(error: BaseException) -> bool:
    """Return whether a collective failed because another process of the run ended (Gloo and NCCL messages)."""
    words = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "Timeout", "connectFullMesh")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def printable(text: str) -> str:
    """Return text with control characters escaped, so that text from a file cannot control the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def shown(value: object) -> str:
    """Return a value of a configuration in YAML notation: null and true, not None and True."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
