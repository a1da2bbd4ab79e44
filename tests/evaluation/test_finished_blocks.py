"""Blocks on disk are used only if they are what was written."""

from pathlib import Path

import numpy as np

from elbo_bench.evaluation.finished_blocks import FinishedBlocks

ROWS = {"log_px": np.array([-1.5, -2.5, -0.1]), "nan": np.array([False, False, True])}


def test_what_was_saved_is_loaded_and_nothing_else_is(tmp_path: Path) -> None:
    finished = FinishedBlocks(tmp_path / "blocks")
    assert finished.load(3) is None
    finished.save(3, ROWS)
    loaded = finished.load(3)
    assert loaded is not None
    assert list(loaded) == list(ROWS)
    assert all(loaded[name].tobytes() == column.tobytes() for name, column in ROWS.items())
    assert finished.load(2) is None
    (place,) = (tmp_path / "blocks").iterdir()
    content = place.read_bytes()
    for damaged in (
        b"",
        content[:-5],
        content[:40],
        content + b"x",
        content.replace(ROWS["log_px"].tobytes(), b"\0" * 24),
    ):
        place.write_bytes(damaged)
        assert finished.load(3) is None
    np.savez(place.with_suffix(".npz"), **ROWS)  # a whole file of rows that somebody else wrote
    place.write_bytes(place.with_suffix(".npz").read_bytes())
    assert finished.load(3) is None


def test_a_block_that_was_copied_from_elsewhere_is_not_used(tmp_path: Path) -> None:
    one = FinishedBlocks(tmp_path / ".blocks" / "one")
    one.save(3, ROWS)
    (source,) = (tmp_path / ".blocks" / "one").iterdir()
    for folder, number in (("two", 3), ("one", 4), ("one/exact", 3), ("two/exact", 3)):
        other = FinishedBlocks(tmp_path / ".blocks" / folder)
        other.save(number, ROWS)
        assert other.load(number) is not None
        (target,) = [
            path
            for path in (tmp_path / ".blocks" / folder).iterdir()
            if path.is_file() and path.name.endswith(str(number))
        ]
        target.write_bytes(source.read_bytes())
        assert other.load(number) is None


def test_without_a_folder_nothing_is_kept() -> None:
    finished = FinishedBlocks(None)
    finished.save(0, ROWS)
    assert finished.load(0) is None
