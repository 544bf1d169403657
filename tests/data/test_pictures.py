import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mutations import mutated

from fedhello.data import pictures as pictures_module
from fedhello.data.dataset import Picture
from fedhello.data.pictures import decode, undecodable
from fedhello.errors import DataError, MissingExtraError

Image = pytest.importorskip("PIL.Image")


def encoded(array, mode=None, kind="PNG", **options):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(array, dtype=np.uint8)).convert(mode or "RGB").save(stream, kind, **options)
    return stream.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, size=(40, 40, 3))
RED = np.zeros((4, 6, 3), dtype=np.uint8) + np.array([255, 0, 0], dtype=np.uint8)


def test_files_bytes_and_pixels_give_the_same(tmp_path):
    (tmp_path / "red.png").write_bytes(encoded(RED))
    pictures = [Picture(content, "red") for content in (tmp_path / "red.png", encoded(RED), RED)]
    pixels = decode(pictures, (4, 6))
    assert (pixels.shape, pixels.dtype) == ((3, 3, 4, 6), np.uint8)
    assert (pixels == RED.transpose(2, 0, 1)).all()


def test_pixels_stay_in_place_and_images_in_order():
    grids = [np.arange(6, dtype=np.uint8).reshape(2, 3) + 5 * i for i in range(40)]
    pixels = decode([Picture(grid, "grid") for grid in grids], (2, 3), channels=1, workers=4)
    assert pixels.shape == (40, 1, 2, 3)
    assert (pixels[:, 0] == np.stack(grids)).all()


def test_grey_fills_all_channels_and_colour_becomes_grey():
    grey = np.full((2, 2), 90, dtype=np.uint8)
    assert (decode([Picture(grey, "grey")], (2, 2)) == 90).all()
    assert (decode([Picture(RED, "red")], (1, 1), channels=1) == 76).all()  # 0.299 · 255


def test_images_are_scaled_to_height_and_width():
    halves = np.zeros((4, 8), dtype=np.uint8)
    halves[:, 4:] = 200
    pixels = decode([Picture(halves, "halves")], (2, 4), channels=1)
    assert pixels.shape == (1, 1, 2, 4)
    assert pixels[0, 0, 0, 0] == 0
    assert pixels[0, 0, 0, 3] == 200


def test_images_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    halves = np.zeros((16, 16))
    halves[:8] = 255
    upright, turned = decode(
        [Picture(encoded(halves, "L", "JPEG"), "upright"), Picture(encoded(halves, "L", "JPEG", exif=exif), "turned")],
        (16, 16),
    )
    assert upright[0, 0, 0] > 200
    assert turned[0, 0, 0] < 50


@pytest.mark.parametrize("content", [b"", b"no image", encoded(NOISE)[:1500], encoded(NOISE, kind="JPEG")[:1500]])
def test_an_image_that_cannot_be_decoded_is_named(content):
    pictures = [Picture(RED, "good"), Picture(content, "photos/bad.png")]
    with pytest.raises(DataError, match=r"photos/bad\.png cannot be decoded .*on_bad_image: skip"):
        decode(pictures, (2, 2))
    assert list(undecodable(pictures)) == [1]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.png; it cannot be read"):
        decode([Picture(tmp_path / "absent.png", "absent.png")], (2, 2))


def test_deeper_images_are_refused():
    stream = io.BytesIO()
    Image.fromarray(np.full((2, 2), 40_000, dtype=np.uint16)).save(stream, "PNG")
    with pytest.raises(DataError, match="expected 8 bits per channel; scan"):
        decode([Picture(stream.getvalue(), "scan")], (2, 2))


def test_nothing_decodes_to_nothing():
    assert decode([], (2, 3)).shape == (0, 3, 2, 3)


def test_images_without_pillow_name_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[images\]'"):
        decode([], (2, 2))


def samples():
    """Small files of every format that is read, in several of its forms."""
    small = NOISE[:12, :12]
    kinds = [("PNG", {}), ("JPEG", {}), ("GIF", {}), ("WEBP", {}), ("TIFF", {}), ("BMP", {}), ("PPM", {})]
    kinds += [("JPEG", {"progressive": True}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(small, None, kind, **options) for kind, options in kinds]
    files += [encoded(small, mode, "PNG") for mode in ("P", "1", "L", "LA", "RGBA")]
    files += [encoded(small, "CMYK", "JPEG"), encoded(small, "L", "JPEG", exif=exif), encoded(small, "P", "TIFF")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        frames = [Image.fromarray(NOISE[i : i + 9, :9].astype(np.uint8)) for i in range(3)]
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        files.append(stream.getvalue())
    return files


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damage that it can bear
@pytest.mark.parametrize("cases", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_whatever_is_damaged_the_door_returns_pixels_or_one_sentence(cases):
    rng, files = np.random.default_rng(cases), samples()
    assert undecodable([Picture(file, "whole") for file in files]) == {}
    pictures = [Picture(mutated(rng, files[i % len(files)], 60), f"picture {i}") for i in range(cases)]
    bad = undecodable(pictures)
    assert 0.2 * cases < len(bad) < 0.95 * cases
    assert all(f"picture {i}" in said and "\n" not in said and " object at 0x" not in said for i, said in bad.items())
    good = [picture for i, picture in enumerate(pictures) if i not in bad]
    assert decode(good, (4, 4)).shape == (len(good), 3, 4, 4)


def test_what_is_left_out_or_turned_is_counted():
    frames = [Image.fromarray(NOISE[i : i + 9, :9].astype(np.uint8)) for i in range(2)]
    animation, deep = io.BytesIO(), io.BytesIO()
    frames[0].save(animation, "PNG", save_all=True, append_images=frames[1:])
    rows = b"".join(b"\0" + bytes([10, 255] * 3 * 2) for _ in range(2))
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    deep.write(b"\x89PNG\r\n\x1a\n")
    for name, data in chunks:
        deep.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    exif = Image.Exif()
    exif[0x0112] = 3
    clear = np.dstack([RED, np.full((4, 6), 100, dtype=np.uint8)])
    changes = Counter()
    pictures = {
        pictures_module.SEVERAL: animation.getvalue(),
        pictures_module.DEEP: deep.getvalue(),
        pictures_module.TURNED: encoded(NOISE, "L", "JPEG", exif=exif),
        pictures_module.CMYK: encoded(NOISE, "CMYK", "JPEG"),
        pictures_module.TRANSPARENT: clear,
        "": encoded(RED, "RGBA"),  # opaque
    }
    pixels = decode([Picture(content, said) for said, content in pictures.items()], (2, 2), changes=changes)
    assert changes == dict.fromkeys([said for said in pictures if said], 1)
    assert (pixels[1] == 10).all()
    assert (pixels[4] == pixels[5]).all()


def test_a_palette_with_transparency_keeps_its_colours():
    content = encoded(np.dstack([RED, RED[..., :1]]), "RGBA")
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).quantize(4).save(stream, "PNG", transparency=bytes([0, 255]))
    assert (decode([Picture(stream.getvalue(), "palette")], (4, 6)) == RED.transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no readable JPEG, PNG, .*begins with b'%!PS-Adobe"),
        (b"<svg xmlns='x'/>", "begins with b.<svg"),
        (b"\0\0\0\x18ftypheic", "begins with b'.*ftypheic'"),
        (np.zeros((0, 4), dtype=np.uint8), "with pixels; it has 4 × 0|cannot be decoded"),
    ],
)
def test_other_formats_are_not_tried(content, said):
    with pytest.raises(DataError, match=said):
        decode([Picture(content, "it")], (2, 2))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "."], ids=["too long", "NUL", "a folder"])
def test_names_that_no_file_can_have_are_said(name):
    picture = Picture(Path(name), "it")
    for use in (lambda: picture.digest, lambda: decode([picture], (2, 2))):
        with pytest.raises(DataError, match=r"expected the image it; it (cannot be read|is no file)"):
            use()


def test_what_a_processor_raises_names_the_image():
    def scale(pixels):
        raise RuntimeError("no\nkernel")

    with pytest.raises(DataError, match=r"photo cannot be decoded \(no kernel\)"):
        decode([Picture(RED, "photo")], (2, 2), scale=scale)


def test_pillow_warns_through_errors_and_notes_alone(recwarn, caplog):
    whole = encoded(NOISE, kind="TIFF")
    assert list(undecodable([Picture(whole, "whole"), Picture(whole[: len(whole) - 50], "cut")])) == [1]
    assert (list(recwarn), caplog.messages) == ([], [])
    odd = encoded(NOISE, kind="JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    assert undecodable([Picture(odd, "odd"), Picture(odd, "other")]) == {}
    assert (len(recwarn), len(caplog.messages)) == (0, 1)
    assert caplog.messages[0].startswith("Pillow warns of odd: Corrupt EXIF data")
