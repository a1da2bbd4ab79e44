"""Blocks that are done, on disk: an evaluation that was killed goes on from them."""

import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np

from elbo_bench.errors import RunFailedError

Rows = dict[str, np.ndarray]
_DIGEST = hashlib.sha256().digest_size  # bytes before the content


class FinishedBlocks:
    """The rows of each finished block, a file each.

    A block's rows depend on the evaluation and on the block alone. They are the same bytes on any rank, in this process
    or in one that was killed. A file begins with a digest of its evaluation, its block and its content: a file that is
    damaged, or was copied from elsewhere, is not used.

    Args:
        folder: Where they lie; named by the evaluation, so that another one never finds them. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, block: int) -> Rows | None:
        """Return the rows of a block, or None if no file holds them."""
        if self._folder is None:
            return None
        try:
            content = self._place(block).read_bytes()
            if self._digest(block, content[_DIGEST:]) != content[:_DIGEST]:
                return None
            with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as columns:
                return {name: columns[name] for name in columns.files}
        except FileNotFoundError:
            return None
        except Exception:  # zipfile, zlib and NumPy's parser each have their own
            return None

    def save(self, block: int, rows: Rows) -> None:
        """Keep the rows of a block; a crash leaves the whole file or none.

        Raises:
            RunFailedError: The disk does not take it.
        """
        if self._folder is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, **rows)  # type: ignore[arg-type]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, scratch = tempfile.mkstemp(dir=self._folder, prefix=".writing-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._digest(block, buffer.getvalue()) + buffer.getvalue())
            Path(scratch).replace(self._place(block))
        except OSError as error:
            raise RunFailedError(f"{self._folder} cannot be written: {error.strerror or error}") from None

    def _digest(self, block: int, content: bytes) -> bytes:
        assert self._folder is not None
        evaluation = "/".join(self._folder.parts[-2:])  # a part of an evaluation has a folder below its own
        return hashlib.sha256(f"{evaluation}/{block}/".encode() + content).digest()

    def _place(self, block: int) -> Path:
        assert self._folder is not None
        return self._folder / f"block-{block:06d}"
