"""Finished blocks on disk, from which a killed evaluation goes on."""

import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np

from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.estimate import Columns

_DIGEST = hashlib.sha256().digest_size  # bytes before the content


class FinishedBlocks:
    """The arrays of each finished block, one file for each.

    They depend on the evaluation and on the number of the block only, and are the same bytes in every process. A file
    begins with a digest of its evaluation, its block and its content. A damaged file, or a file of another evaluation,
    is not used.

    Args:
        folder: Folder of the files, named by the evaluation. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, block: int) -> Columns | None:
        """Return the arrays of a block, or None if there is no valid file."""
        if self._folder is None:
            return None
        try:
            content = self._path(block).read_bytes()
            if self._digest(block, content[_DIGEST:]) != content[:_DIGEST]:
                return None
            with np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False) as columns:
                return {name: columns[name] for name in columns.files}
        except FileNotFoundError:
            return None
        except Exception:  # zipfile, zlib and NumPy's parser each have their own
            return None

    def save(self, block: int, rows: Columns) -> None:
        """Write the arrays of a block atomically.

        Raises:
            RunFailedError: The file cannot be written.
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
            Path(scratch).replace(self._path(block))
        except OSError as error:
            raise RunFailedError(f"{self._folder} cannot be written: {error.strerror or error}") from None

    def _digest(self, block: int, content: bytes) -> bytes:
        assert self._folder is not None
        evaluation = "/".join(self._folder.parts[-2:])  # exact values have a folder within that of the evaluation
        return hashlib.sha256(f"{evaluation}/{block}/".encode() + content).digest()

    def _path(self, block: int) -> Path:
        assert self._folder is not None
        return self._folder / f"block-{block:06d}"
