"""Files that are broken or mean harm end in one line that names them: nothing is run, unpacked or allocated."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elbo_bench.data.array import Array
from elbo_bench.data.dataset import Dataset
from elbo_bench.data.image_folder import ImageArray, image_arrays, image_names
from elbo_bench.errors import UsageError

NOWHERE = Path("no-root")
GREY = np.arange(240, dtype=np.uint8).reshape(20, 4, 3)


class Harm:
    """Unpickling it makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def load(path: Path, **fields: Any) -> Dataset:
    return Array(**({"path": str(path), "values": "levels"} | fields)).load(NOWHERE)


def refused(path: Path, words: str, **fields: Any) -> None:
    """Check that a file is refused in one line that names it, without ever taking 50 MB."""
    load_nothing_yet = Array(path=str(path), values="levels", **fields)
    tracemalloc.start()
    with pytest.raises(UsageError, match=words) as caught:
        load_nothing_yet.load(NOWHERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < 50_000_000


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


BROKEN: list[tuple[bytes, str]] = [
    (b"", "no valid header"),
    (b"no array at all", "no valid header"),
    (npy_bytes(GREY)[:40], "no valid header"),
    (npy_bytes(GREY)[:-1], r"promises 240 bytes \(20, 4, 3\) of uint8, and has 239: it is not whole"),
    (npy_bytes(GREY) * 2, r"promises 240 bytes .* and has \d+: something follows the array"),
    (header((2**31, 784)) + bytes(99), r"promises 1683627180032 bytes .* and has 99: it is not whole"),
    (header((2**31, 784), ">f8") + bytes(99), r"promises 13469017440256 bytes"),
    (header((2**62, 2**62)) + bytes(99), "it is not whole"),
    (header((20, -1)), "holds no value"),
    (header((20, 0)), "holds no value"),
    (header((0, 20)), "holds no value"),
    (header("(2, 3)"), "no valid header"),
    (header((2, 3), "|O") + bytes(48), "holds Python objects, which only a pickle can bring back: save numbers"),
    (header((2, 3), "<U4") + bytes(96), "holds <U4: values are to be whole or floating-point numbers"),
    (header((2, 3), "<c8") + bytes(48), "holds complex64: values"),
    (header((2, 3), "<M8[s]") + bytes(48), "values are to be whole or floating-point numbers"),
    (header((2, 3), "no dtype") + bytes(48), "no valid header"),
    (header((2, 3), version=3) + bytes(6), r"is in version \(3, 0\) of NumPy's format"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "no valid header"),
    (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "no valid header"),
    (npy_bytes(np.array(3.0)), r"has the shape \(\): examples want an axis to count them and one more"),
    (npy_bytes(np.arange(20.0)), r"has the shape \(20,\): examples want"),
    (npy_bytes(np.array([[{"a": 1}], [2]], dtype=object), allow_pickle=True), "holds Python objects"),
    (npy_bytes(np.zeros(4, dtype=[("a", "u1"), ("b", "f4")])), "values are to be whole or floating-point numbers"),
]


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
    refused(save(tmp_path / "x.npy", npy_bytes(harm, allow_pickle=True)), "holds Python objects")
    np.savez(tmp_path / "x.npz", a=harm)
    refused(tmp_path / "x.npz", "holds Python objects")
    refused(save(tmp_path / "y.npy", pickle.dumps(Harm(made))), "no valid header")
    refused(save(tmp_path / "y.pt", pickle.dumps(Harm(made))), "broken, or is one in the format before torch 1.6")
    torch.save(Harm(made), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "holds more than tensors, and nothing else is read, for it could run code")
    torch.save({"train": torch.zeros(3, 3), "other": Harm(made)}, tmp_path / "z.pt")
    refused(tmp_path / "z.pt", "holds more than tensors")
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
    place = content.index(GREY.tobytes()) + 100
    altered = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    refused(save(tmp_path / "altered.npz", altered), "is broken: Bad CRC-32")
    np.savez(tmp_path / "large.npz", a=np.ones((200, 200), dtype=np.uint8))  # more than is read of a header
    altered = (tmp_path / "large.npz").read_bytes().replace(b"\1" * 40_000, b"\1" * 39_999 + b"\3")
    refused(save(tmp_path / "large.npz", altered), "cannot be read: Bad CRC-32")
    np.savez_compressed(tmp_path / "packed.npz", a=np.random.default_rng(0).integers(0, 99, (500, 99), dtype=np.uint8))
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[5000:5100] = bytes(100)
    refused(save(tmp_path / "altered2.npz", bytes(packed)), "cannot be read|is broken")


def test_an_npz_whose_directory_promises_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header((2**30, 3)) + bytes(1000))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # where the directory says how many bytes the member has
    content[place : place + 4] = struct.pack("<I", 3 * 2**30 + len(header((2**30, 3))))
    refused(save(tmp_path / "x.npz", bytes(content)), "promises 32212.* bytes, and cannot hold them")


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


def test_an_npz_without_an_array_or_packed_otherwise_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.txt", "nothing")
    refused(tmp_path / "x.npz", "holds no array; one is wanted, or train, validation and test")
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", npy_bytes(GREY))
    refused(tmp_path / "y.npz", "is compressed in a way that numpy.savez_compressed never does it")


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

    refused(altered(tmp_path / "good.pt", tmp_path / "x.pt", change), "is no file of tensors: |promises")


def test_a_tensor_of_one_row_again_and_again_is_refused(tmp_path: Path) -> None:
    torch.save(torch.zeros(1, 3).expand(2**31, 3), tmp_path / "x.pt")
    refused(tmp_path / "x.pt", r"promises \(2147483648, 3\) of float32, which are more bytes than the file has")


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    path, rows = tmp_path / "x.pt", torch.zeros(20, 3)
    for content, words in [
        ([rows], "is no file of tensors: it holds a list"),
        (3, "it holds a int"),
        ({"a": 3}, "holds no array"),
        ({"a": rows, "b": rows}, "holds 2 arrays: a, b"),
        (rows.bfloat16(), "is a torch.strided tensor of torch.bfloat16 on cpu: save it dense, as float32"),
        (rows.to_sparse(), "torch.sparse_coo tensor of torch.float32 on cpu: save it dense"),
        (rows.cfloat(), "holds complex64"),
        (rows[0], r"has the shape \(3,\)"),
        (rows[0, 0], r"has the shape \(\)"),
        (rows[:0], "holds no value"),
    ]:
        torch.save(content, path)
        refused(path, words)
    torch.save(rows, path, _use_new_zipfile_serialization=False)
    refused(path, "broken, or is one in the format before torch 1.6")
    torch.save(rows, tmp_path / "good.pt")
    refused(altered(tmp_path / "good.pt", path, lambda x: x, zipfile.ZIP_DEFLATED), "compressed, as torch.save never")
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


def images(folder: Path, mode: str = "L", size: tuple[int, int] = (6, 5), num: int = 12, suffix: str = ".png") -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for i in range(num):
        shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).convert(mode).save(
            folder / f"{i:02}{suffix}"
        )
    return folder


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


def arrays_of(folder: Path) -> ImageArray:
    return image_arrays(folder, {"": image_names(folder)})[""]


def test_images_of_one_bit_are_zeros_and_ones(tmp_path: Path) -> None:
    data = load(images(tmp_path / "i", "1"), values="binary")
    assert (data.num_levels, tuple(data.train.shape)) == (2, (10, 5, 6))
    assert set(data.train[torch.arange(10)].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (Image.new("L", (6, 6)), "is 6x6 in grey, and .*00.png 5x6 in grey: all are to be alike"),
        (Image.new("RGB", (6, 5)), "is 5x6 in colour, and .*00.png 5x6 in grey"),
        (Image.new("1", (6, 5)), "is 5x6 of one bit, and"),
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


def refused_image(folder: Path, name: str, words: str, **fields: Any) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load(folder, **fields)
    assert str(caught.value).startswith(f"image {folder / name} ")
    assert "\n" not in str(caught.value)


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
        refused_image(folder, f"00.{suffix}", "it holds several images: save each in a file of its own")
        (folder / f"00.{suffix}").unlink()
