"""Figures for a paper: their formats, their width, and names that are safe."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from support.records import full, write_full

from elbo_bench.cli import main

NAMES = ["k-curve", "tightness", "gap-by-samples", "rate-distortion", "gap-over-log-px", "gap-histogram"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for number, name in enumerate(("iwae", "a_long_name_of_an_objective_that_fills_a_column_by_itself")):
        objective = {"name": name, "num_samples": 64, "direction": "lower"}
        write_full(tmp_path / "runs", full(name, -20.0 - number, objective=objective), name)
    return tmp_path / "runs"


def test_each_plot_is_a_vector_and_a_raster_as_wide_as_the_column(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures"
    assert main(["figures", str(runs), "--out", str(out), "--width", "3.25", "--json"]) == 0
    written = [Path(each) for each in json.loads(capsys.readouterr().out)]
    expected = {f"{name}.{form}" for name in NAMES for form in ("svg", "pdf", "png")}
    assert {place.name for place in written} == expected | {"leaderboard.tex", "captions.tex"}
    assert {place.name for place in out.iterdir()} == {place.name for place in written}
    for name in NAMES:
        svg = (out / f"{name}.svg").read_text()
        width = float(re.search(r'width="([\d.]+)"', svg).group(1))  # type: ignore[union-attr]
        assert width == pytest.approx(3.25 * 72, abs=2)
        assert "<image" not in svg  # nothing in it is a raster
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(io.BytesIO((out / f"{name}.png").read_bytes())) as image:
            assert image.width == pytest.approx(3.25 * 300, abs=9)
    assert r"\toprule" in (out / "leaderboard.tex").read_text()
    assert r"\newcommand{\captionKCurve}" in (out / "captions.tex").read_text()


def test_files_of_several_data_sets_have_names_of_their_own(tmp_path: Path) -> None:
    for number, (name, protocol) in enumerate((("../evil", "p"), ("../evil", "q"), ("digits", "p"))):
        result = full(str(number), -20.0, data__name=name, data__protocol=protocol)
        write_full(tmp_path / "runs", result, str(number))
    out = tmp_path / "figures"
    assert main(["figures", str(tmp_path / "runs"), "--out", str(out)]) == 0
    prefixes = {place.name.removesuffix("k-curve.svg") for place in out.glob("*k-curve.svg")}
    assert prefixes == {"1----evil-", "2----evil-", "3-digits-"}
    assert {place.name for place in tmp_path.iterdir()} == {"runs", "figures"}


def test_no_two_files_and_no_two_commands_of_tex_have_one_name(tmp_path: Path) -> None:
    for number, name in enumerate(("digits", "digits", "digits-1")):
        result = full(str(number), -20.0, data__name=name, data__protocol=str(number))
        write_full(tmp_path / "runs", result, str(number))
    assert main(["figures", str(tmp_path / "runs"), "--out", str(tmp_path / "figures")]) == 0
    assert len([*(tmp_path / "figures").glob("*.svg")]) == 3 * len(NAMES)
    commands = re.findall(r"newcommand\{(.*?)\}", (tmp_path / "figures" / "captions.tex").read_text())
    assert len({*commands}) == 3 * len(NAMES)


@pytest.mark.parametrize("width", ["0", "-3", "nan", "100", "wide"])
def test_a_width_that_is_none_is_said_in_a_line(
    runs: Path, tmp_path: Path, width: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figures", str(runs), "--out", str(tmp_path / "f"), "--width", width]) == 2
    assert "--width" in capsys.readouterr().err
    assert not (tmp_path / "f").exists()


def test_a_folder_that_cannot_be_made_is_said_in_a_line(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["figures", str(runs), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "cannot be made" in capsys.readouterr().err
