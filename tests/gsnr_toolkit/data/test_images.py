"""Pictures of all kinds: what is read, how, what is left out and that it is said."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from corit.prediction.media import find_inputs, read_frames
from gsnr_toolkit import open_dataset
from gsnr_toolkit.data.images import IMAGE_SUFFIXES, MAX_ASPECT, is_hidden, is_image, read_image, to_rgb, unreadable
from gsnr_toolkit.data.transforms import fit_square, image_to_tensor
from gsnr_toolkit.errors import ProbeWarning

RNG = np.random.default_rng(0)


def noise(height=40, width=40):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for kind in ("real", "fake"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            Image.fromarray(noise()).save(tmp_path / kind / f"{i}.png")
    return tmp_path


def opened(folder):
    """The data set, its warnings, and the reasons by file name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = open_dataset(f"image-folder:{folder}", image_size=40, mean=(0, 0, 0), std=(1, 1, 1))
    skipped = {path.rsplit("/", 1)[-1]: reason for path, reason in data.skipped.itertuples(index=False)}
    return data, " ".join(str(warning.message) for warning in caught), skipped


def pixels_of(data, name):
    index = [path.name for path in data.records["path"]].index(name)
    return (data[index][0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


# ---- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled(folder, suffix):
    deep = (RNG.random((40, 40)) * 65535).astype(np.uint16)
    Image.fromarray(deep).save(folder / "fake" / f"deep{suffix}")
    data, _, skipped = opened(folder)
    assert not skipped
    expected = np.round(deep / 257).astype(np.uint8)
    np.testing.assert_array_equal(pixels_of(data, f"deep{suffix}"), np.dstack([expected] * 3))


def test_the_other_byte_order_is_scaled_too():
    deep = np.array([[0, 257, 65535]], np.uint16)
    found = to_rgb(Image.frombytes("I;16B", (3, 1), deep.astype(">u2").tobytes()))
    assert np.asarray(found)[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_left_out_and_named(folder, dtype):
    Image.fromarray(np.ones((40, 40), dtype)).save(folder / "fake" / "odd.tif")
    data, said, skipped = opened(folder)
    assert len(data) == 6
    assert "no known white" in skipped["odd.tif"]
    assert "odd.tif" in said
    with pytest.raises(ValueError, match=r"no known white; scale the image"):
        image_to_tensor(Image.fromarray(np.ones((4, 4), dtype)), 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_a_viewer_in_training_and_in_prediction(folder, orientation):
    stored = np.zeros((40, 40, 3), np.uint8)
    stored[:10], stored[:, :20, 1] = 255, 128
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = folder / "real" / "phone.png"
    image.save(path, exif=exif)
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # quarter turns against the clock, of a mirrored image
    shown = stored[:, ::-1] if orientation in (2, 4, 5, 7) else stored
    shown = np.rot90(shown, {4: 2, 5: 1, 7: 3}.get(orientation, turns[orientation]))
    data, _, _ = opened(folder)
    np.testing.assert_array_equal(pixels_of(data, "phone.png"), shown)
    np.testing.assert_array_equal(next(iter(read_frames(path))).pixels, shown)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"]


@pytest.mark.parametrize("mode", MODES)
def test_other_modes_are_read_as_before(mode):
    image = Image.fromarray(noise()).convert("LA" if mode == "PA" else "RGB")
    image = image.convert(mode) if mode != "PA" else image.convert("P").convert("PA")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_ordinary_files_keep_every_bit(tmp_path, form):
    path = tmp_path / "image.bin"
    Image.fromarray(noise()).save(path, form)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, form, save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(file).getpixel((4, 4)) == (255, 0, 0)


# ---- limits ------------------------------------------------------------------------------------------------------


def huge_png(path, side=16000):
    """A small file of very many black pixels."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_a_picture_of_too_many_pixels_is_named_and_the_rest_is_kept(folder):
    huge_png(folder / "fake" / "scan.png")
    data, said, skipped = opened(folder)
    assert len(data) == 6
    assert "more than 178956970 pixels" in skipped["scan.png"]
    assert "scan.png" in said
    [frame] = read_frames(folder / "fake" / "scan.png")
    assert frame.pixels is None
    assert "more than 178956970 pixels" in frame.note


def test_a_large_picture_below_the_limit_is_read_with_pillows_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.fromarray(noise(40, 40)).save(tmp_path / "a.png")
    with pytest.warns(Image.DecompressionBombWarning):
        assert read_image(tmp_path / "a.png").size == (40, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # then the warning is a refusal
        assert "pixels" in unreadable(tmp_path / "a.png")


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0XXXXXXXX", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_damaged_exif_data_are_no_reason_not_to_read(tmp_path, exif, form):
    path = tmp_path / "a.bin"
    Image.fromarray(noise()).save(path, form, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.asarray(Image.open(path).convert("RGB")))


def test_warnings_already_shown_are_not_shown_again(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            read_image(tmp_path / "a.png")
            warnings.warn("once", stacklevel=1)
    assert len(caught) == 1


@pytest.mark.parametrize("shape", [(1, 16000), (16000, 1), (3, 3 * MAX_ASPECT + 1)])
def test_long_and_narrow_pictures_are_named(folder, shape):
    Image.fromarray(noise(*shape)).save(folder / "fake" / "rule.png")
    data, _, skipped = opened(folder)
    assert len(data) == 6
    assert skipped["rule.png"] == f"more than {MAX_ASPECT} times as long as wide"


def test_memory_is_bounded_for_long_arrays():
    """Only the middle of a long picture is resampled; its middle square is what is returned."""
    long = np.zeros((16000, 4, 3), np.uint8)
    long[7998:8002] = 255
    found = np.asarray(fit_square(Image.fromarray(long), 32))
    whole = np.asarray(fit_square(Image.fromarray(long[8000 - 64 : 8000 + 64]), 32))
    np.testing.assert_array_equal(found, whole)
    short = Image.fromarray(noise(100, 20))  # below the bound: as ever
    expected = short.resize((32, 160), Image.Resampling.BICUBIC).crop((0, 64, 32, 96))
    np.testing.assert_array_equal(np.asarray(fit_square(short, 32)), np.asarray(expected))


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_files_are_named(folder, damage):
    path = folder / "fake" / "bad.jpg"
    Image.fromarray(noise()).save(path)
    path.write_bytes({"cut": path.read_bytes()[:300], "empty": b"", "text": b"no picture"}[damage])
    data, said, skipped = opened(folder)
    assert len(data) == 6
    assert skipped["bad.jpg"] in ("broken image", "empty file", "not an image")
    assert "bad.jpg" in said


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "form"), [(".jfif", "JPEG"), (".JPE", "JPEG"), (".gif", "GIF"), (".avif", "AVIF")])
def test_further_suffixes_are_read(folder, suffix, form):
    path = folder / "fake" / f"more{suffix}"
    Image.fromarray(noise()).save(path, form)
    data, _, skipped = opened(folder)
    assert len(data) == 7
    assert not skipped
    assert find_inputs([folder])[0] == path or path in find_inputs([folder])


@pytest.mark.parametrize("suffix", [".heic", ".HEIC", ".jxl", ".cr2"])
def test_pictures_without_a_reader_are_named(folder, suffix):
    (folder / "fake" / f"phone{suffix}").write_bytes(b"anything")
    data, said, skipped = opened(folder)
    assert len(data) == 6
    assert skipped[f"phone{suffix}"] == f"no reader for {suffix.lower()}; convert it to PNG or JPEG"
    assert f"no reader for {suffix.lower()}" in said


def test_a_plugin_makes_its_pictures_readable(monkeypatch):
    assert not is_image("a.heic")
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, None))
    assert is_image("a.heic")


LEFTOVERS = [
    "._0.png",
    ".0.png",
    "__MACOSX/real/0.png",
    "@eaDir/0.png",
    ".ipynb_checkpoints/0.png",
    "real/@eaDir/0.png",
]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_hidden_files_are_left_out_without_a_word(folder, name):
    path = folder / "real" / name if "/" not in name else folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise()).save(path, "PNG")
    (folder / "real" / ".DS_Store").write_bytes(b"x")
    data, said, skipped = opened(folder)
    assert len(data) == 6
    assert not skipped
    assert not said
    assert path not in find_inputs([folder])


def test_hidden_and_shown_names():
    assert [is_hidden(name) for name in (".", "..", "a.b", "a/.git", "__MacOSX", "x__MACOSX")] == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]
    assert all(is_image(f"a{suffix.upper()}") for suffix in IMAGE_SUFFIXES)


def test_a_damaged_file_that_appears_later_is_named(folder):
    data, _, _ = opened(folder)
    path = data.records["path"].iloc[0]
    huge_png(path)
    with pytest.raises(Exception, match=rf"{path.name}.*more than 178956970 pixels"):
        data.load_image(0)


def test_warnings_name_the_kind_once(folder):
    for i in range(3):
        (folder / "fake" / f"{i}.heic").write_bytes(b"x")
    with pytest.warns(ProbeWarning, match=r"3 x no reader for \.heic"):
        open_dataset(f"image-folder:{folder}", image_size=40)
