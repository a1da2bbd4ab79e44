"""Standard output and standard error that never raise: not for a closed pipe, a full disk or an encoding."""

import codecs
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from elbo_bench.errors import printable
from elbo_bench.ranks import is_first

_PLAIN = {"±": "+-", "‖": "||", "†": "+", "−": "-", "→": "->", "≥": ">=", "≤": "<=", "…": "...", "─": "-", "━": "-"}
"""Replacements for characters that the encoding of the terminal does not have."""


def say(message: str) -> None:
    """Print one line on stderr, on rank 0 only."""
    if is_first():
        line = " ".join(message.split())
        if len(line) > 1000:  # it contains data of the user
            line = f"{line[:500]} ... {line[-300:]}"
        print(f"elbo-bench: {printable(line)}", file=sys.stderr)  # noqa: T201


class Output:
    """A text stream that never raises. After the first failure it discards all text.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.problem: Exception | None = None

    def write(self, text: str) -> int:
        """Write text. Characters that the encoding does not have are replaced."""
        if self.problem is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self.write(text.encode(encoding, "elbo_bench_plain").decode(encoding))
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream."""
        if self.problem is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = error
        # Python flushes the buffers at exit, which would raise again. Redirect the stream to the null device.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` by streams that never raise. Restore them on exit."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed by the parent process: the next opened file would get this number
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        sys.stdout, sys.stderr = (Output(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before


def output_problem() -> str | None:
    """Return why writing to stdout failed, or None. A pipe that the reader closed is not a failure."""
    sys.stdout.flush()
    problem = getattr(sys.stdout, "problem", None)
    if problem is None or isinstance(problem, BrokenPipeError):
        return None
    return str(getattr(problem, "strerror", None) or problem)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign, "?") for sign in found), error.end


codecs.register_error("elbo_bench_plain", _plain)
