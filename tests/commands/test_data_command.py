"""`elbo-bench data`: what there is, and whether the files are the official ones, and how it looks."""

import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from elbo_bench.cli import main
from elbo_bench.config import build
from elbo_bench.config.catalogue import Catalogue
from elbo_bench.data.reading.files import DataFile
from elbo_bench.data.sets.caltech101_silhouettes import Caltech101Silhouettes
from elbo_bench.data.sets.digits import Digits
from elbo_bench.data.sets.freyfaces import FreyFaces
from elbo_bench.noise import Noise


def test_list_says_where_from_how_and_under_which_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path))
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"digits", "linear_gaussian_data", "mnist_dynamic", "mnist_static"} <= set(rows)
    assert rows["digits"]["here"] == rows["linear_gaussian_data"]["here"] == "built in"
    assert rows["mnist_static"]["here"] == "no"
    assert "1297/250/250" in rows["digits"]["protocol"]
    assert rows["linear_gaussian_data"]["observation"] == "continuous"
    assert {len(file["sha256"]) for file in rows["mnist_dynamic"]["files"]} == {64}
    assert [file["bytes"] for file in rows["mnist_dynamic"]["files"]] == [9_912_422, 1_648_877]
    assert all(file["addresses"][0].startswith("http") for row in rows.values() for file in row["files"])
    assert rows["fashion_mnist"]["homepage"] == "https://github.com/zalandoresearch/fashion-mnist"
    assert "Xiao" in rows["fashion_mnist"]["citation"]
    assert len(rows["omniglot_burda"]["files"][0]["git_blob"]) == 40
    assert main(["data", "list"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in rows)
    assert max(map(len, shown.splitlines()[1:])) <= 110  # behind the folder's name
    place = tmp_path / "static_mnist"
    place.mkdir()
    for name in ("train", "valid", "test"):  # as their own site has them, or compressed
        (place / f"binarized_mnist_{name}.amat{'.gz' if name == 'test' else ''}").touch()
    assert main(["data", "list", "mnist_static", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["here"] == "yes"


def test_verify_of_official_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Takes seconds: it reads every data set whose files are here."""
    if not os.environ.get("ELBO_BENCH_DATA"):
        pytest.skip("ELBO_BENCH_DATA is not set: this test reads the upstream files")
    assert main(["data", "list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out) if row["here"] == "yes"]
    assert main(["data", "verify", "--json", *names]) == 0
    out, error = capsys.readouterr()
    rows = json.loads(out)
    assert {state for row in rows for state in row["files"].values()} == {"ok"}
    assert sum(len(row["files"]) for row in rows) >= 5
    assert all(len(row["test_sha256"]) == 64 and row["expected_sha256"] in (None, row["test_sha256"]) for row in rows)
    assert error.startswith(f"verifying data sets: {len(names)}/{len(names)}")


def test_verify_names_the_file_that_is_missing_or_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-images-idx3-ubyte.gz").write_bytes(b"not MNIST")
    assert main(["data", "verify", "mnist_dynamic"]) == 2
    out, error = capsys.readouterr()
    assert out.count("missing or wrong") == 2
    assert error.count("\n") == 1
    assert "2 data files are missing or wrong" in error
    assert str(tmp_path / "mnist/train-images-idx3-ubyte.gz") in error
    assert main(["data", "verify", "mnist_dynamic", "--json"]) == 2
    (row,) = json.loads(capsys.readouterr().out)
    assert "`elbo-bench data fetch mnist_dynamic` does that for you" in row["files"]["mnist/t10k-images-idx3-ubyte.gz"]
    assert row["test_sha256"] is None
    assert main(["data", "verify", "mnist_dynamics"]) == 2
    assert "did you mean 'mnist_dynamic'?" in capsys.readouterr().err
    assert main(["data", "verify", "digits"]) == 0
    shutil.rmtree(tmp_path / "mnist")


# ---------------------------------------------------------------- fetch


class _Handler(BaseHTTPRequestHandler):
    answers: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        content = self.answers.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Handler]]:
    """A server in the place of every address of every data set; two sets are small, and one of these can be had."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(_Handler, "answers", {"/caltech": b"silhouettes"})
    monkeypatch.setattr(_Handler, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = False
        base = f"http://127.0.0.1:{server.server_port}"
        sources = {type(build("data", name)) for name in Catalogue.of().names("data")}
        for source in sources:
            here = tuple(dataclasses.replace(file, addresses=(f"{base}/{file.path}",)) for file in source.files)
            monkeypatch.setattr(source, "files", here)
        for source, path, content in (
            (Caltech101Silhouettes, "caltech", b"silhouettes"),
            (FreyFaces, "frey", b"faces"),
        ):
            file = DataFile(path, hashlib.sha256(content).hexdigest(), (f"{base}/{path}",), len(content))
            monkeypatch.setattr(source, "files", (file,))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield _Handler
        server.shutdown()
        thread.join()


def test_fetch_of_all_goes_on_behind_a_set_that_fails(
    upstream: type[_Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", "--json"]) == 3
    out, error = capsys.readouterr()
    rows = {row["name"]: row for row in json.loads(out)}
    assert set(rows) == set(Catalogue.of().names("data"))
    assert rows["digits"]["is"] == rows["linear_gaussian_data"]["is"] == "built in"
    assert rows["caltech101_silhouettes"] == {
        "name": "caltech101_silhouettes",
        "is": "fetched",
        "files": {"caltech": "fetched"},
        "problems": [],
    }
    assert rows["freyfaces"]["files"] == {"frey": "failed"}
    assert "/frey (HTTP 404); put it at" in rows["freyfaces"]["problems"][0]
    # MNIST's files belong to two sets, and a set's second file waits for its first.
    assert rows["mnist_dynamic"]["problems"] == rows["mnist_threshold"]["problems"]
    assert rows["mnist_dynamic"]["files"] == {
        "mnist/train-images-idx3-ubyte.gz": "failed",
        "mnist/t10k-images-idx3-ubyte.gz": "not tried",
    }
    assert upstream.asked.count("/mnist/train-images-idx3-ubyte.gz") == 1
    assert len(upstream.asked) == len(set(upstream.asked))
    said = error.splitlines()
    # Beside the two small ones: MNIST (2 files), Fashion-MNIST (2), static MNIST (3), OMNIGLOT (2, and Burda's).
    assert said[0] == (
        f"elbo-bench: to be fetched into {tmp_path}/data: 12 of 12 files, 157.9 MB, and 1 of unknown size"
    )
    assert said[-1].startswith("elbo-bench: 6 data files could not be had: data file ")
    assert (tmp_path / "data/caltech").read_bytes() == b"silhouettes"


def test_fetch_says_what_it_did_and_how_it_ended(
    upstream: type[_Handler], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "fetch", "caltech101_silhouettes", "digits"]) == 0
    out, error = capsys.readouterr()
    assert [line.split() for line in out.splitlines()[4:6]] == [
        ["caltech101_silhouettes", "caltech", "fetched"],
        ["digits", "built", "in"],
    ]
    assert error.startswith(f"elbo-bench: to be fetched into {tmp_path}/data: 1 of 1 files, 0.0 MB\n")
    assert main(["data", "fetch", "caltech101_silhouettes"]) == 0
    out, error = capsys.readouterr()
    assert out.splitlines()[4].split() == ["caltech101_silhouettes", "caltech", "here"]
    assert error == ""
    place = tmp_path / "data/caltech"
    place.write_bytes(b"SILHOUETTES")
    assert main(["data", "fetch", "caltech101_silhouettes"]) == 2
    out, error = capsys.readouterr()
    assert out.splitlines()[4].split() == ["caltech101_silhouettes", "caltech", "failed"]
    assert error.count("\n") == 1
    assert error.startswith(f"elbo-bench: data file {place} is not the official one: sha256")
    assert place.read_bytes() == b"SILHOUETTES"
    assert main(["data", "fetch", "caltech101_silhouettes", "--force"]) == 0
    assert place.read_bytes() == b"silhouettes"
    upstream.answers.clear()
    place.unlink()
    capsys.readouterr()
    assert main(["data", "fetch", "freyfaces", "caltech101_silhouettes"]) == 3
    out, error = capsys.readouterr()
    assert "".join(out.split()).count("(HTTP404);putitat") == 2  # of several problems each is told
    assert upstream.asked == ["/caltech", "/caltech", "/frey", "/caltech"]


def test_a_set_of_ones_own_is_neither_fetched_nor_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Digits, "path", "somewhere", raising=False)
    monkeypatch.setattr(Digits, "load", None)
    for action, key in (("list", "here"), ("fetch", "is")):
        assert main(["data", action, "digits", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row[key] == "yours"
    assert main(["data", "verify", "digits"]) == 0
    assert "yours" in capsys.readouterr().out


# ---------------------------------------------------------------- verify


def test_verify_holds_the_test_split_against_what_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = build("data", "digits").load(tmp_path).test_sha256
    for pinned, code, word in (
        ({}, 0, "no hash known"),
        ({"dynamic": found}, 0, "as expected"),
        ({"dynamic": "ab" * 32}, 3, "WRONG"),
    ):
        monkeypatch.setattr(Digits, "test_sha256", pinned, raising=False)
        assert main(["data", "verify", "digits"]) == code
        out, error = capsys.readouterr()
        assert f"sha256 {found[:16]}..., {word}" in out
        assert error.count("\n") == (code == 3)
        assert main(["data", "verify", "digits", "--json"]) == code
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["test_sha256"], row["expected_sha256"]) == (found, pinned.get("dynamic"))
    assert "the test split made of them is not what it should be" in error
    assert f"sha256 {found[:16]}..., expected abababababababab..." in error
    # What is pinned is made with the project's own defaults.
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine.yaml").write_text("target: elbo_bench.data.sets.digits:Digits\n", encoding="utf-8")
    assert main(["data", "verify", "mine", "--conf", str(tmp_path)]) == 0
    assert "no hash known" in capsys.readouterr().out


# ---------------------------------------------------------------- show


def cells(place: Path, height: int, width: int) -> np.ndarray:
    """Return the images of a sheet, `[rows, columns, height, width]`, each pixel of which is a square of one value."""
    sheet = np.asarray(Image.open(place))
    zoom = -(-48 // max(height, width))
    tall, wide = height * zoom + 2, width * zoom + 2
    assert sheet.shape == (12 * tall - 2, 20 * wide - 2)
    images = np.empty((12, 20, height, width), dtype=np.uint8)
    for row, column in np.ndindex(12, 20):
        cell = sheet[row * tall : row * tall + tall - 2, column * wide : column * wide + wide - 2]
        images[row, column] = cell[::zoom, ::zoom]
        assert np.array_equal(cell, images[row, column].repeat(zoom, 0).repeat(zoom, 1))
    return images


@pytest.mark.parametrize(
    ("words", "values"), [([], "dynamic"), (["values=levels"], "levels"), (["data.values=logit"], "logit")]
)
def test_show_draws_the_observations_of_each_split_in_their_order(
    words: list[str], values: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "show", *words[:1], "digits", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    drawn = cells(tmp_path / "digits.png", 8, 8).reshape(3, 80, 8, 8)
    dataset = build("data", "digits", values=values).load(tmp_path)
    scans = load_digits().images[Noise(0, "digits/split").permutation(1797).numpy()] / 16
    start = 0
    for band, split in zip(drawn, ("train", "validation", "test"), strict=True):
        x, ids = dataset.observations(split, 80)
        scan = scans[start + ids.numpy()]
        start += len(getattr(dataset, split))
        if values == "levels":
            assert np.array_equal(band, (255 * scan).round())
            assert np.array_equal(x.numpy(), 16 * scan)
        elif values == "dynamic":
            assert np.array_equal(band, 255 * x.numpy())
            assert not band[scan == 0].any()
            assert (band[scan == 1] == 255).all()
        else:  # a level and the noise upon it, of seventeen
            assert np.abs(band / 255 - (16 * scan + 0.5) / 17).max() <= 0.5 / 17 + 0.5 / 255
    assert start == 1797
    assert facts["splits"] == {"train": 1297, "validation": 250, "test": 250}
    assert facts["protocol"] == dataset.protocol
    assert facts["shape"] == [8, 8]
    assert facts["train_mean"] == pytest.approx(float(dataset.info.train_mean.mean()))
    assert facts["licence"] == "CC BY 4.0"
    assert facts["citation"].startswith("Alpaydin")
    assert facts["path"] == "digits.png"


def test_show_draws_vectors_as_strips_and_what_is_not_there_grey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["linear_gaussian_data", "data.num_validation=21", "--out", "strips.PNG", "num_dims=5"]
    assert main(["data", "show", *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "written strips.PNG from above 4 rows each of train (2000 examples), validation (21 examples), test (500" in out
    )
    assert " shape 5 mean of train " in out
    drawn = cells(tmp_path / "strips.PNG", 1, 5).reshape(3, 80, 5)
    dataset = build("data", "linear_gaussian_data", num_validation=21, num_dims=5).load(tmp_path)
    low, high = dataset.train.min(), dataset.train.max()
    expected = (255 * ((dataset.validation - low) / (high - low)).clamp(0, 1)).numpy()
    assert np.abs(drawn[1, :21] - expected).max() <= 0.51
    assert (drawn[1, 21:] == 128).all()


def test_show_refuses_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path / "none"))
    (tmp_path / "folder.png").mkdir()
    rows: list[tuple[list[str], str]] = [
        ([], "`elbo-bench data show` draws one data set, not 0: give one NAME"),
        (["digits", "bars"], "`elbo-bench data show` draws one data set, not 2: give one NAME"),
        (["digit"], "data=digit: no such data; did you mean 'digits'?"),
        (["digits", "valeus=levels"], "data.valeus: data digits has no such key; did you mean 'values'?"),
        (["digits", "values=level"], "data.values=level: should be "),
        (["digits", "name=bars"], "name=bars: the data set already has the name digits"),
        (["digits", "data.target=os:system"], "target: a target cannot be set from the command line"),
        (["digits", "--out", "nowhere/a.png"], "--out nowhere/a.png: there is no folder nowhere"),
        (["digits", "--out", "a.jpg"], "--out a.jpg: the picture is a PNG, so its name ends in .png"),
        (["digits", "--out", "folder.png"], "--out folder.png: it is a folder, or lies in one that cannot be written"),
        (["digits", "--out", "a\0.png"], "--out a\\x00.png: it cannot be written: embedded null byte"),
        (["digits", "--out", "a" * 300 + ".png"], "--out aaa"),
        (["freyfaces"], "elbo-bench data fetch freyfaces"),
    ]
    for words, said in rows:
        assert main(["data", "show", *words]) == 2, words
        out, error = capsys.readouterr()
        assert out == ""
        assert said in error
        assert error.count("\n") == 1
    for action, option, owner in (
        ("list", "--force", "fetch"),
        ("show", "--force", "fetch"),
        ("fetch", "--out=a.png", "show"),
    ):
        assert main(["data", action, option, "digits"]) == 2
        assert f"{option[:5]}" in (error := capsys.readouterr().err)
        assert f"goes with `elbo-bench data {owner}`, not with `data {action}`" in error
    assert main(["data", "verify", "digits", "values=levels"]) == 2
    assert "'values=levels' is no name of a data set" in capsys.readouterr().err
    assert [place.name for place in tmp_path.iterdir()] == ["folder.png"]


def test_help_has_an_example_of_each_action(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    out = capsys.readouterr().out
    assert all(f"  elbo-bench data {action}" in out for action in ("list", "fetch", "verify", "show"))


def test_a_data_folder_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for folder, said in ((str(tmp_path / "file"), "not a folder"), ("~nobody-of-this-name/x", "home folder not found")):
        monkeypatch.setenv("ELBO_BENCH_DATA", folder)
        assert main(["data", "list", "mnist_static"]) == 2
        message = capsys.readouterr().err
        assert f"ELBO_BENCH_DATA={folder}: " in message
        assert said in message
        assert message.count("\n") == 1


def test_what_is_shown_moves_no_cursor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELBO_BENCH_DATA", str(tmp_path / "\x1b[31mred"))
    assert main(["data", "list", "digits"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_sheet_of_large_images_is_thinned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.zeros((5, 900, 700), dtype=np.uint8)
    images[:, :9] = 255  # the first of the rows that are kept
    np.save(tmp_path / "large.npy", images)
    assert main(["data", "show", "array", f"path={tmp_path / 'large.npy'}", "values=levels", "--out", "large.png"]) == 0
    with Image.open("large.png") as sheet:
        height, width = 100, 78  # every ninth pixel
        assert sheet.size == (20 * (width + 2) - 2, 12 * (height + 2) - 2)
        pixels = np.asarray(sheet)
    assert (pixels[0, :width] == 255).all()
    assert (pixels[1:height, :width] == 0).all()
    assert (pixels[0, 5 * (width + 2) : 6 * (width + 2) - 2] == 128).all()  # there is no sixth training image
