"""Broken and hostile files end in one line that names them. No code is executed and no memory is filled."""

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.arrays import arrays_of, images, load, refused, refused_image

from elbo_bench.data.dataset import Dataset
from elbo_bench.errors import UsageError

GREY = np.arange(240, dtype=np.uint8).reshape(20, 4, 3)


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def npy_bytes(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def header(shape: Any, descr: str = "|u1", version: int = 1) -> bytes:
    literal = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(literal)) + literal


# --- .npy and what a header may say -----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_columns_and_big_endian_numbers_are_read_as_they_are_meant(tmp_path: Path, in_memory: bool) -> None:
    wanted = load(save(tmp_path / "a.npy", npy_bytes(GREY)), in_memory=in_memory)
    others = [np.asfortranarray(GREY), GREY.astype(">i2"), GREY.astype("<i8"), GREY.astype(">f8"), GREY.astype("f2")]
    for array in others:
        found = load(save(tmp_path / "b.npy", npy_bytes(array)), in_memory=in_memory)
        assert torch.equal(found.train[torch.arange(16)], wanted.train[torch.arange(16)])
        assert (torch.equal(found.test, wanted.test), found.test_sha256) == (True, wanted.test_sha256)


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


UNREADABLE = {
    "empty": b"",
    "text": b"no array at all",
    "half a header": npy_bytes(GREY)[:40],
    "cut short": npy_bytes(GREY)[:-1],
    "2^31 images": header((2**31, 784)) + bytes(99),
    "2^31 images of float64": header((2**31, 784), ">f8") + bytes(99),
    "a size that overflows to nothing": header((2**62, 2**62)) + bytes(99),
    "a negative size": header((20, -1)),
    "a shape that is a string": header("(2, 3)"),
    "a type that is none": header((2, 3), "no dtype") + bytes(48),
    "a header of four gigabytes": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "a header of brackets": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
    "Python objects": header((2, 3), "|O") + bytes(48),
    "a pickle": npy_bytes(np.array([[{"a": 1}], [2]], dtype=object), allow_pickle=True),
}
NO_EXAMPLES = [
    (header((20, 0)), "holds no value"),
    (header((0, 20)), "holds no value"),
    (header((2, 3), "<U4") + bytes(96), "holds <U4: values must be integers or floating-point numbers"),
    (header((2, 3), "<c8") + bytes(48), "holds complex64: values"),
    (header((2, 3), "<M8[s]") + bytes(48), r"holds datetime64\[s\]: values"),
    (npy_bytes(np.zeros(4, dtype=[("a", "u1"), ("b", "f4")])), "values must be integers or floating-point numbers"),
    (npy_bytes(np.array(3.0)), r"has the shape \(\): it needs \[N, ...\] with one more axis"),
    (npy_bytes(np.arange(20.0)), r"has the shape \(20,\): it needs"),
]
BROKEN = [*((content, "cannot be read: ") for content in UNREADABLE.values()), *NO_EXAMPLES]


@pytest.mark.parametrize(("content", "words"), BROKEN)
def test_a_broken_npy_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    refused(save(tmp_path / "x.npy", content), words)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(("content", "words"), BROKEN)
def test_a_broken_array_in_an_npz_is_refused(tmp_path: Path, content: bytes, words: str, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        archive.writestr("a.npy", content)
    refused(tmp_path / "x.npz", words)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    made = tmp_path / "made"
    harm = np.empty((2, 2), dtype=object)
    harm[0, 0] = Harm(made)
    refused(save(tmp_path / "x.npy", npy_bytes(harm, allow_pickle=True)), "Python objects")
    np.savez(tmp_path / "x.npz", a=harm)
    refused(tmp_path / "x.npz", "Object arrays cannot be loaded")
    refused(save(tmp_path / "y.npy", pickle.dumps(Harm(made))), "cannot be read")
    refused(
        save(tmp_path / "y.pt", pickle.dumps(Harm(made))),
        "is broken, or has the format that torch wrote before version 1.6",
    )
    torch.save(Harm(made), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "holds other objects than tensors. They could execute code, so it is not read")
    torch.save({"train": torch.zeros(3, 3), "other": Harm(made)}, tmp_path / "z.pt")
    refused(tmp_path / "z.pt", "holds other objects than tensors")
    assert not made.exists()
    pickle.loads(pickle.dumps(Harm(made)))
    assert made.exists()  # it would have


# --- .npz -------------------------------------------------------------------------------------------------------------


def test_an_npz_that_is_cut_short_or_altered_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", a=GREY)
    content = (tmp_path / "good.npz").read_bytes()
    refused(save(tmp_path / "short.npz", content[:-30]), "is broken")
    refused(save(tmp_path / "none.npz", b""), "is broken")
    refused(save(tmp_path / "text.npz", b"no archive"), "is broken")
    start = content.index(GREY.tobytes()) + 100
    altered = content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]
    refused(save(tmp_path / "altered.npz", altered), "cannot be read: Bad CRC-32")
    np.savez_compressed(tmp_path / "packed.npz", a=np.random.default_rng(0).integers(0, 99, (500, 99), dtype=np.uint8))
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[5000:5100] = bytes(100)
    refused(save(tmp_path / "altered2.npz", bytes(packed)), "cannot be read")


def test_an_npz_that_promises_gigabytes_and_holds_little_is_refused(tmp_path: Path) -> None:
    promise = header((2**30, 3)) + bytes(1000)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", promise)
    refused(tmp_path / "x.npz", "cannot be read: EOF: reading array data")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    start = content.index(b"PK\x01\x02") + 24  # the archive's directory: the size of the member
    content[start : start + 4] = struct.pack("<I", 3 * 2**30 + len(header((2**30, 3))))
    refused(save(tmp_path / "x.npz", bytes(content)), "cannot be read")


def test_names_that_lead_elsewhere_are_names_and_nothing_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in" / "x.npz", "w") as archive:
        archive.writestr("../../x.npy", npy_bytes(GREY))
        archive.writestr("/etc/y.npy", npy_bytes(GREY))
    before = sorted(tmp_path.rglob("*"))
    assert torch.equal(load(tmp_path / "in" / "x.npz", key="../../x").test, load_npy(tmp_path).test)
    (tmp_path / "plain.npy").unlink()
    refused(tmp_path / "in" / "x.npz", "holds 2 arrays: ../../x, /etc/y")
    assert sorted(tmp_path.rglob("*")) == before


def load_npy(folder: Path) -> Dataset:
    return load(save(folder / "plain.npy", npy_bytes(GREY)))


def test_an_npz_without_an_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.txt", "nothing")
    refused(tmp_path / "x.npz", "array 'a.txt' cannot be read: it is not an array")
    zipfile.ZipFile(tmp_path / "y.npz", "w").close()
    refused(tmp_path / "y.npz", "holds no array; one array is needed, or train, validation and test")


def test_an_npz_cannot_be_read_in_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=GREY)
    refused(tmp_path / "x.npz", "in_memory=false: .* cannot be read in part; save its arrays as .npy", in_memory=False)


def test_an_array_that_is_not_asked_for_does_no_harm(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GREY, names=np.array(["a", "b"]), other=np.array([{}], dtype=object))
    assert torch.equal(load(tmp_path / "x.npz", key="images").test, load_npy(tmp_path).test)


# --- .pt --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [True, False])
def test_tensors_that_lie_otherwise_are_read_as_they_are_meant(tmp_path: Path, in_memory: bool) -> None:
    wanted, plain = load_npy(tmp_path), torch.from_numpy(GREY.copy())
    views = {
        "transposed": plain.transpose(0, 2).contiguous().transpose(0, 2),
        "part": torch.cat([plain, plain])[20:],
        "parameter": torch.nn.Parameter(plain.float()),
        "whole": plain.int(),
    }
    torch.save(views, tmp_path / "x.pt")
    for name in views:
        found = load(tmp_path / "x.pt", key=name, in_memory=in_memory)
        assert torch.equal(found.test, wanted.test)
        assert torch.equal(found.train[torch.arange(16)], wanted.train[torch.arange(16)])


def altered(source: Path, place: Path, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a .pt whose pickle of shapes is another; its values stay."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(place, "w", compression) as new:
        for info in old.infolist():
            content = old.read(info.filename)
            new.writestr(info.filename, change(content) if info.filename.endswith("data.pkl") else content)
    return place


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x14K\x04K\x03\x87", b"J\xff\xff\xff\x7fK\x04K\x03\x87"),  # 2^31 - 1 rows
        (b"K\x14K\x04K\x03\x87", b"K\xffK\x04K\x03\x87"),  # 255 rows
        (b"K\x0cK\x03K\x01\x87", b"J\xff\xff\xff\xffK\x03K\x01\x87"),  # a negative stride
        (b"K\x0cK\x03K\x01\x87", b"K\xffK\x03K\x01\x87"),  # a stride that leads beyond the end
    ],
)
@pytest.mark.parametrize(
    "storage", [b"K\xf0t", b"J\xff\xff\xff\x7ft"]
)  # as it is; one that promises 2^31 - 1 values, too
def test_a_tensor_that_promises_more_than_its_file_holds_is_refused(
    tmp_path: Path, old: bytes, new: bytes, storage: bytes
) -> None:
    torch.save(torch.from_numpy(GREY.copy()), tmp_path / "good.pt")

    def change(content: bytes) -> bytes:
        assert old in content
        assert b"K\xf0t" in content
        return content.replace(old, new).replace(b"K\xf0t", storage)

    refused(altered(tmp_path / "good.pt", tmp_path / "x.pt", change), "cannot be read: ")


def test_a_tensor_of_one_row_again_and_again_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 3).expand(2**31, 3), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"promises \(2147483648, 3\) values, more than the file has bytes for")


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.pt", torch.zeros(20, 3)
    for content, words in [
        ([rows], "holds a list: save a tensor or a dict of tensors"),
        (3, "holds a int: save"),
        ({"a": 3}, "holds no array"),
        ({"a": rows, "b": rows}, "holds 2 arrays: a, b"),
        (rows.bfloat16(), "cannot be read: Got unsupported ScalarType BFloat16"),
        (rows.to_sparse(), "cannot be read: "),
        (rows.cfloat(), "holds complex64"),
        (rows[0], r"has the shape \(3,\)"),
        (rows[0, 0], r"has the shape \(\)"),
        (rows[:0], "holds no value"),
    ]:
        torch.save(content, path)
        refused(path, words)
    torch.save(rows, path, _use_new_zipfile_serialization=False)
    refused(path, "is broken, or has the format that torch wrote before version 1.6")
    torch.save(rows, tmp_path / "good.pt")
    refused(altered(tmp_path / "good.pt", path, lambda x: x, zipfile.ZIP_DEFLATED), "is compressed")
    refused(save(path, (tmp_path / "good.pt").read_bytes()[:-50]), "is broken")


# --- paths ------------------------------------------------------------------------------------------------------------


def test_what_is_no_file_of_these_formats_is_refused(tmp_path: Path) -> None:
    refused(save(tmp_path / "x.csv", b"1,2"), "it is neither a .npy, .npz, .pt, .pth file nor a folder of images")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has no image: .png .jpg")
    for path, words in [("~nobody-of-this-name/x.npy", "home"), ("x" * 5000, ""), ("a\0b.npy", "")]:
        with pytest.raises(UsageError, match=f"data.path=.*{words}"):
            load(Path(path))
    (tmp_path / "null.npy").symlink_to("/dev/zero")
    refused(tmp_path / "null.npy", "it is neither")


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [(mode, s) for mode in ("L", "RGB") for s in (".png", ".bmp", ".tif", ".TIFF", ".gif", ".jpg", ".jpeg")]
    + [("RGB", ".webp")],  # which knows no grey
)
def test_every_format_of_images_is_decoded_as_pillow_does(tmp_path: Path, mode: str, suffix: str) -> None:
    folder = images(tmp_path / "i", mode, suffix=suffix)
    array = arrays_of(folder)
    assert array.shape == ((12, 5, 6) if mode == "L" else (12, 3, 5, 6))
    for i, place in enumerate(sorted(folder.iterdir())):
        with Image.open(place) as image:
            exact = np.array(image.convert(mode))
        row = array.read(np.array([i]))[0]
        assert np.array_equal(row if mode == "L" else row.transpose(1, 2, 0), exact)


def test_images_of_one_bit_are_zeros_and_ones(tmp_path: Path) -> None:
    data = load(images(tmp_path / "i", "1"), values="binary")
    assert (data.num_levels, tuple(data.train.shape)) == (2, (10, 5, 6))
    assert set(data.train[torch.arange(10)].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Image.new("L", (6, 6)), "is 6x6 grey, but .*00.png is 5x6 grey"),
        (Image.new("RGB", (6, 5)), "is 5x6 colour, but .*00.png is 5x6 grey"),
        (Image.new("1", (6, 5)), "is 5x6 1-bit, but"),
        (Image.new("RGBA", (6, 5)), r"its mode is RGBA: save it in 8-bit grey \(L\) or RGB"),
        (Image.new("I;16", (6, 5)), "its mode is I;16"),
        (Image.new("LA", (6, 5)), "its mode is LA"),
    ],
)
def test_the_first_image_that_is_unlike_the_others_is_named(tmp_path: Path, odd: Image.Image, words: str) -> None:
    folder = images(tmp_path / "i")
    for name in ("07.png", "09.png"):
        odd.save(folder / name)
    refused_image(folder, "07.png", words)


@pytest.mark.parametrize("in_memory", [True, False])
def test_broken_images_are_refused_by_name(tmp_path: Path, in_memory: bool) -> None:
    folder = images(tmp_path / "i", size=(60, 50))
    good = (folder / "03.png").read_bytes()
    for content in (b"", b"no image", good[:20], good[: len(good) // 2], good[:900] + bytes(200) + good[1100:]):
        save(folder / "03.png", content)
        refused_image(folder, "03.png", "cannot be read", in_memory=in_memory)
    save(folder / "03.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n")  # Pillow would start another program
    refused_image(folder, "03.png", "cannot be read: cannot identify image file", in_memory=in_memory)


def test_an_image_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = images(tmp_path / "i")
    for limit in (29, 14):  # Pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        refused_image(folder, "00.png", r"Image size \(30 pixels\) exceeds limit")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    assert len(load(folder).train) == 10


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    folder = images(tmp_path / "i", num=3)
    frames = [Image.new("L", (6, 5), grey) for grey in (0, 99)]
    for suffix in ("gif", "tif", "png", "webp"):
        frames[0].save(folder / f"00.{suffix}", save_all=True, append_images=frames[1:])
        refused_image(folder, f"00.{suffix}", "it holds several images: save each image as one file")
        (folder / f"00.{suffix}").unlink()
