"""Output never ends a run: a reader that leaves, a full disk, a closed stream, an encoding that lacks a character."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbo_bench import output
from elbo_bench.output import Output, safe_output

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "model.hidden=[8]",
    "model.latent_dim=2",
    "trainer.max_epochs=2",
    "evaluation.num_samples=20",
    "evaluation.num_examples=20",
    "evaluation.truth=importance",
    "tracking=none",
]
SWEEP = """
parameters:
  objective: {values: [elbo_mc, iwae]}
  model.hidden: {value: [8]}
  trainer.max_epochs: {value: 1}
  evaluation.num_samples: {value: 20}
  evaluation.num_examples: {value: 20}
  tracking: {value: none}
"""


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which $EB is the program."""
    environment = {**os.environ, "EB": f"{sys.executable} -m elbo_bench", "PYTHONPATH": str(ROOT), **variables}
    environment |= {"ELBO_BENCH_RUNS": str(folder / "runs")}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, timeout=300, check=False
    )


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")]


@pytest.mark.parametrize(
    "line",
    [
        "$EB train {words} 2>&1 | head -c 30; exit ${PIPESTATUS[0]}",
        "$EB train {words} 2>&1 | true; exit ${PIPESTATUS[0]}",
        "$EB train {words} 2>&-",
        "$EB train {words} >&- 2>&-",
        "$EB train {words} <&- >&- 2>&-",
        "$EB train {words} 2>/dev/full",
        "$EB train {words} --json | head -1; exit ${PIPESTATUS[0]}",
    ],
)
@pytest.mark.slow
def test_a_training_is_recorded_whatever_its_output_does(tmp_path: Path, line: str) -> None:
    done = shell(line.replace("{words}", " ".join(f"'{word}'" for word in TINY)), tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 1
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception ignored" not in done.stdout + done.stderr


def test_a_reader_that_leaves_does_not_end_a_training(tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in TINY)
    done = shell(f"$EB train {words} 2>&1 | head -c 30; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0
    assert len(records(tmp_path)) == 1


def test_results_that_a_full_disk_did_not_take_are_an_error_after_the_record(tmp_path: Path) -> None:
    words = " ".join(f"'{word}'" for word in TINY)
    done = shell(f"$EB train {words} >/dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines()[-1] == "elbo-bench: standard output: No space left on device"
    assert len(records(tmp_path)) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "koi8-r"])
@pytest.mark.slow
def test_tables_and_pages_are_written_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    done = shell("$EB sweep s.yaml && $EB leaderboard && $EB data list", tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert (tmp_path / "runs" / "s.html").exists()
    assert "log p(x)" in done.stdout.decode(encoding)


class Failing(io.StringIO):
    """A stream of an encoding, each write of which may raise."""

    def __init__(self, encoding: str, error: Exception | None) -> None:
        super().__init__()
        self._encoding, self._error = encoding, error

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def write(self, text: str) -> int:
        if self._error is not None:
            raise self._error
        text.encode(self._encoding)
        return super().write(text)


@given(text=st.text(), encoding=st.sampled_from(["ascii", "cp1252", "utf-8", "koi8-r", "shift_jis"]))
def test_no_text_raises_in_any_encoding_and_what_can_be_written_is(text: str, encoding: str) -> None:
    stream = Failing(encoding, None)
    assert Output(stream).write(text) == len(text)
    written = stream.getvalue()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        assert written.encode(encoding)
    else:
        assert written == text


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(28, "No space left on device"), ValueError("I/O operation on closed file")]
)
def test_a_stream_that_fails_is_left_alone(error: Exception) -> None:
    stream = Output(Failing("utf-8", error))
    stream.write("x")
    assert stream.problem is error
    stream.write("y")
    stream.writelines(["z"])
    stream.flush()


def test_marks_of_a_table_have_plain_words() -> None:
    stream = Failing("ascii", None)
    Output(stream).write("± ‖ † ≥ é")
    assert stream.getvalue() == "+- || + >= ?"


def test_streams_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.stdout, sys.stderr
    with safe_output():
        assert isinstance(sys.stdout, Output)
    assert (sys.stdout, sys.stderr) == before
    monkeypatch.setattr(sys, "stderr", None)
    with safe_output():
        output.say("no one hears this")
    assert sys.stderr is None
