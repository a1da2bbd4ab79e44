"""A record is written whole or not at all, in the same bytes, and is read with suspicion."""

import contextlib
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import records

from elbo_bench.errors import RunFailedError, UsageError
from elbo_bench.files import atomic_write
from elbo_bench.results.record import read_examples, read_result, write_result


def metric(value: Any = -3.5, se: Any = 0.25) -> dict[str, Any]:
    return {**records.metric(value), "se_test": se, "se_mc": se}


def result(**changed: Any) -> dict[str, Any]:
    metrics = {"log_px": metric(), "ess": metric(12.0, None)}
    return {**records.record("a-run", -3.5), "metrics": metrics, **changed}


def examples(num: int = 4) -> dict[str, np.ndarray]:
    log_px = np.array([-1.0, -np.inf, 1e-300, 0.1])[:num]
    return {"id": np.arange(num), "log_px": log_px, "pareto_k": np.full(num, np.nan, dtype=np.float32)}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---------------------------------------------------------------- writing


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    write_result(tmp_path / "run", result(), examples())
    assert read_result(tmp_path / "run") == result()
    columns = read_examples(tmp_path / "run")
    assert list(columns) == ["id", "log_px", "pareto_k"]
    for name, column in examples().items():
        assert columns[name].dtype == column.dtype
        assert columns[name].tobytes() == column.tobytes()
    assert names(tmp_path / "run") == ["examples.npz", "result.json"]


def test_the_same_result_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_result(tmp_path / "one", result(), examples())
    monkeypatch.setattr("time.time", lambda: 4e9)
    write_result(tmp_path / "other" / "below", result(), examples())
    for name in ("result.json", "examples.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / "below" / name).read_bytes()


def test_a_record_is_text_that_a_person_can_read(tmp_path: Path) -> None:
    write_result(tmp_path, result(), examples())
    text = (tmp_path / "result.json").read_text(encoding="ascii")
    assert text.endswith("}\n")
    assert '\n  "run_id": "a-run",\n' in text
    assert list(json.loads(text)) == list(result())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
@pytest.mark.parametrize("existing", [False, True])
def test_a_metric_that_is_not_finite_is_not_recorded(tmp_path: Path, value: float, existing: bool) -> None:
    folder = tmp_path / "run"
    if existing:
        write_result(folder, result(), examples())
    before = {name: (folder / name).read_bytes() for name in names(folder)} if existing else {}
    with pytest.raises(RunFailedError, match=r"^metric log_px is -?(nan|inf): no record is written$"):
        write_result(folder, result(metrics={"log_px": metric(value)}), examples())
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert folder.exists() == existing


@pytest.mark.parametrize(
    "spoiled",
    [
        result(metrics={"log_px": metric(-1.0, math.nan)}),
        result(diagnostics={"share_passing": 1.0, "pareto_k_max": math.nan}),
        result(compute={"evaluate_seconds": 1.0, "more": [1.0, {"x": math.inf}]}),
    ],
)
def test_a_number_that_is_not_finite_is_recorded_nowhere(tmp_path: Path, spoiled: dict[str, Any]) -> None:
    with pytest.raises(RunFailedError, match="not finite: no record is written"):
        write_result(tmp_path / "run", spoiled, examples())
    assert not (tmp_path / "run").exists()


class CrashError(Exception):
    """What stands for a power cut."""


def crash_at(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    replace = Path.replace

    def crashing(source: Path, target: Path) -> Path:
        if target.name == wanted:
            raise CrashError(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", crashing)


@pytest.mark.parametrize("wanted", ["examples.npz", "result.json"])
def test_a_crash_between_the_files_leaves_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    crash_at(monkeypatch, wanted)
    with pytest.raises(CrashError):
        write_result(tmp_path, result(), examples())
    assert names(tmp_path) == ([] if wanted == "examples.npz" else ["examples.npz"])
    with pytest.raises(UsageError, match=r"result\.json cannot be read: No such file or directory$"):
        read_result(tmp_path)


@pytest.mark.parametrize("wanted", ["examples.npz", "result.json"])
def test_a_crash_while_writing_anew_never_pairs_a_record_with_other_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    write_result(tmp_path, result(run_id="before"), examples(2))
    crash_at(monkeypatch, wanted)
    with pytest.raises(CrashError):
        write_result(tmp_path, result(run_id="after"), examples(4))
    assert names(tmp_path) == ["examples.npz"]


def test_writing_anew_replaces_both_files(tmp_path: Path) -> None:
    write_result(tmp_path, result(run_id="before"), examples(2))
    write_result(tmp_path, result(run_id="after"), examples(4))
    assert read_result(tmp_path)["run_id"] == "after"
    assert len(read_examples(tmp_path)["id"]) == 4


def test_a_full_disk_fails_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunFailedError) as raised:
        write_result(tmp_path / "run", result(), examples())
    assert str(raised.value) == f"the record in {tmp_path / 'run'} cannot be written: No space left on device"
    assert names(tmp_path) == ["run"]


def test_a_folder_that_cannot_be_made_fails_the_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a_file").write_text("", encoding="utf-8")
    with pytest.raises(RunFailedError, match=r"cannot be written: Not a directory$"):
        write_result(tmp_path / "a_file" / "run", result(), examples())


def test_replacing_a_file_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with atomic_write(path) as new:
        new.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    with contextlib.suppress(CrashError), atomic_write(path) as new:
        new.write_text("newer", encoding="utf-8")
        raise CrashError
    assert path.read_text(encoding="utf-8") == "new"
    assert names(tmp_path) == ["file"]


# ---------------------------------------------------------------- reading


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in result().items() if name != key}


@pytest.mark.parametrize("key", [key for key in result() if key != "schema_version"])
def test_every_key_is_needed_and_of_its_type(tmp_path: Path, key: str) -> None:
    for spoiled, said in [
        (without(key), f"it has no {key}"),
        (result(**{key: None}), f"{key}: should be "),
        (result(**{key: [1]}), f"{key}: should be "),
        (result(**{key: True}), f"{key}: should be "),
    ]:
        (tmp_path / "result.json").write_text(json.dumps(spoiled), encoding="utf-8")
        with pytest.raises(UsageError) as raised:
            read_result(tmp_path)
        assert str(raised.value).startswith(f"{tmp_path}/result.json is not a result: {said}")


@pytest.mark.parametrize("version", [0, 1, 2, "3", None, [1], 1.5])
def test_a_record_of_another_version_is_refused(tmp_path: Path, version: object) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result(schema_version=version)), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_result(tmp_path)
    said = f"its schema_version is {version!r}, and this program reads 3"
    assert str(raised.value) == f"{tmp_path}/result.json is not a result: {said}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "not json",
        "{",
        "[]",
        "3",
        "null",
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "[" * 100_000,
        '{"a": ' + "1" * 5000 + "}",
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_result(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path}/result.json is not a result: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused_wherever_it_stands(tmp_path: Path, number: str) -> None:
    text = json.dumps(result(checkpoint={"seconds": [{"train": 12345.5}]}))
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    assert read_result(tmp_path)["checkpoint"] == {"seconds": [{"train": 12345.5}]}
    (tmp_path / "result.json").write_text(text.replace("12345.5", number), encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_result(tmp_path)
    assert str(raised.value) == f"{tmp_path}/result.json is not a result: it holds {number}"


def test_a_record_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").mkdir()
    with pytest.raises(UsageError, match=r"result\.json cannot be read: Is a directory$"):
        read_result(tmp_path)


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "result.json").open("wb") as file:
        file.truncate(8 * 2**30)  # a hole: it takes no room
    with pytest.raises(UsageError, match="larger than 16777216 bytes"):
        read_result(tmp_path)


@pytest.mark.parametrize(
    "spoiled",
    [
        metric(value="3"),
        metric(value=True),
        metric(value=None),
        metric(value=10**400),
        metric(se="0.1"),
        metric(se=[0.1]),
        {**metric(), "n": 1.5},
        {**metric(), "n": None},
        {**metric(), "unit": 3},
        {**metric(), "unit": "\x1b[2J"},
        {**metric(), "bias": "lower"},
        {"value": 3.0},
        [],
        None,
    ],
    ids=str,
)
def test_a_metric_of_another_form_is_refused(tmp_path: Path, spoiled: object) -> None:
    text = json.dumps(result(metrics={"log_px": metric(), "bound": spoiled}))
    (tmp_path / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"metrics\.bound"):
        read_result(tmp_path)


# ---------------------------------------------------------------- examples


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (Path(self.place),)


def test_a_pickle_among_the_examples_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = np.array([Trap(str(tmp_path / "it_ran"))], dtype=object)
    np.savez(tmp_path / "examples.npz", id=np.arange(1), log_px=trap, allow_pickle=True)
    with pytest.raises(UsageError, match=r"examples\.npz cannot be read: .*allow_pickle=False"):
        read_examples(tmp_path)
    (tmp_path / "examples.npz").write_bytes(pickle.dumps(Trap(str(tmp_path / "it_ran"))))
    with pytest.raises(UsageError, match=r"examples\.npz cannot be read: "):
        read_examples(tmp_path)
    assert not (tmp_path / "it_ran").exists()


def damaged(kind: str, good: bytes, place: Path) -> None:
    if kind == "a plain array":
        with place.open("wb") as file:
            np.save(file, np.arange(3))
    elif kind == "a hostile header":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }"
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("id.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    elif kind == "a text":
        with zipfile.ZipFile(place, "w") as archive:
            archive.writestr("id.npy", b"\x93NUMPY")
    elif kind == "a flipped bit":
        middle = good.index(b"NUMPY") + 140
        place.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    else:
        place.write_bytes(
            {"empty": b"", "cut": good[: len(good) // 2], "text": b"no archive", "PK": b"PK\x03\x04"}[kind]
        )


@pytest.mark.parametrize(
    "kind", ["empty", "cut", "text", "PK", "a plain array", "a hostile header", "a text", "a flipped bit"]
)
def test_damaged_examples_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    write_result(tmp_path, result(), examples())
    place = tmp_path / "examples.npz"
    damaged(kind, place.read_bytes(), place)
    with pytest.raises(UsageError) as raised:
        read_examples(tmp_path)
    assert str(raised.value).startswith(f"{place} cannot be read: ")


def test_examples_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read_examples(tmp_path)
    assert str(raised.value) == f"{tmp_path}/examples.npz cannot be read: No such file or directory"
