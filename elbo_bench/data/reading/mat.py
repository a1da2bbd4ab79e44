"""Reading MATLAB files."""

import io
from pathlib import Path
from typing import Any

from elbo_bench.data.reading.files import DataFile


def read_mat(file: DataFile, root: Path) -> dict[str, Any]:
    """Return the arrays of a MATLAB file by name.

    Raises:
        UsageError: The file is missing or is not the official one.
    """
    from scipy.io import loadmat  # its import takes half a second

    arrays: dict[str, Any] = loadmat(io.BytesIO(file.read(root)))
    return arrays
