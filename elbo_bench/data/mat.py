"""MATLAB files of arrays (level 5), read by SciPy: nothing in them is executed."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from elbo_bench.errors import UsageError


def parse_mat(content: bytes, shapes: Mapping[str, tuple[int, ...]], place: Path) -> dict[str, np.ndarray]:
    """Return the named arrays of a MATLAB file.

    Args:
        content: The file's bytes.
        shapes: Names of the arrays, and the shapes that they must have.
        place: The file, for the message.

    Raises:
        UsageError: The file is no MATLAB file, or an array is missing, no array of numbers, or of another shape.
    """
    from scipy.io import loadmat, whosmat  # its import takes half a second

    try:
        # What a header says is looked at before anything is allocated because of it.
        found = {name: shape for name, shape, _ in whosmat(io.BytesIO(content))}
        wrong = [_problem(name, shape, found) for name, shape in shapes.items() if found.get(name) != shape]
        problem = wrong[0] if wrong else None
        arrays = {} if problem else loadmat(io.BytesIO(content), variable_names=list(shapes))
    except Exception as error:  # struct, zlib and SciPy's reader each have their own
        raise UsageError(f"data file {place} is not a valid MATLAB file: {type(error).__name__}: {error}") from None
    for name, shape in shapes.items():
        if problem is None and (arrays[name].dtype.kind not in "uif" or arrays[name].shape != shape):
            problem = f"has a {name} that is no array of numbers"
    if problem is not None:
        raise UsageError(f"data file {place} {problem}")
    return {name: arrays[name] for name in shapes}


def _problem(name: str, shape: tuple[int, ...], found: Mapping[str, tuple[int, ...]]) -> str:
    if name not in found:
        return f"has no array {name}: it holds {', '.join(sorted(found)) or 'nothing'}"
    return f"says that its {name} has the shape {found[name]}, expected {shape}"
