import io

import numpy as np
import pytest

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
