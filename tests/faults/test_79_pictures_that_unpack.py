"""Case 79: a picture of 20 kB that unpacks to 13,000² pixels, four times: 3.1 GB → own pixel limit, reduced while
decoding.
"""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections import Counter
from math import isqrt
from pathlib import Path

import numpy as np
import pytest

from fedhello.data.dataset import Columns, Picture
from fedhello.data.pictures import LONGEST_FORM, MOST_PIXELS, REDUCED, decode, undecodable
from fedhello.data.sources import load
from fedhello.errors import DataError

Image = pytest.importorskip("PIL.Image")

STATED = 2**30
"""Bytes that decoding takes at most, whatever the images; docs/how-to/use-your-own-data.md says so."""


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def blank_png(width, height, bits=1, colour=0):
    """A black PNG, written row by row."""
    packer = zlib.compressobj(9)
    row = bytes(1 + -(-width * bits * {0: 1, 2: 3, 6: 4}[colour] // 8))
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(size, mode="L"):
    stream = io.BytesIO()
    Image.new(mode, size, 90).save(stream, "JPEG")
    return stream.getvalue()


def test_a_small_file_that_unpacks_to_more_is_refused_with_row_and_file(tmp_path):
    bomb = blank_png(13_000, 13_000)
    assert len(bomb) < 30_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    Image.new("RGB", (9, 9)).save(tmp_path / "good.png")
    (tmp_path / "x.csv").write_text("image,label\ngood.png,a\nbomb.png,b\ngood.png,b\n")
    data = load(str(tmp_path / "x.csv"), Columns(image="image"), deduplicate=False)
    with pytest.raises(
        DataError, match=r"at most 67,108,864 pixels; .*bomb\.png in line 3 of .*x\.csv has 13000 × 13000"
    ):
        decode(data.inputs, (8, 8))
    kept = load(str(tmp_path / "x.csv"), Columns(image="image"), deduplicate=False, skip_bad_images=True)
    assert kept.notes == (f"1 of 3 images cannot be decoded and were left out, for example {data.inputs[1].name}",)


@pytest.mark.parametrize("side", [2**16, 2**31 - 1])
def test_whatever_a_header_states_is_not_taken(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert "at most 67,108,864 pixels" in undecodable([Picture(content, "x")])[0]


def test_a_jpeg_is_reduced_while_it_is_decoded_and_that_is_said():
    changes = Counter()
    content = jpeg((12_000, 6_000))
    assert (decode([Picture(content, "photo")] * 2, (4, 4), changes=changes) == 90).all()
    assert changes == {REDUCED: 2}
    assert not undecodable([Picture(jpeg((8192, 8192)), "the most that is not reduced")])


def test_a_strip_that_would_grow_when_it_is_scaled_is_refused():
    strip = Picture(np.zeros((1, LONGEST_FORM + 1), dtype=np.uint8), "strip")
    assert "longer side is at most 100 times the shorter one; strip has 101 × 1" in undecodable([strip])[0]
    assert not undecodable([Picture(np.zeros((LONGEST_FORM, 1), dtype=np.uint8), "high")])


MEASURE = """
import re, sys
from pathlib import Path
from fedhello.data.dataset import Picture
from fedhello.data.pictures import decode
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
decode([Picture(Path(sys.argv[1]), "small")], (224, 224))
before = peak()
decode([Picture(Path(sys.argv[2]), "large")] * 4, (224, 224))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("colour", [0, 2, 6], ids=["black and white", "colours", "with transparency"])
def test_the_largest_picture_read_four_times_stays_within_the_stated_memory(tmp_path, colour):
    (tmp_path / "small.png").write_bytes(blank_png(9, 9))
    side = isqrt(MOST_PIXELS)
    (tmp_path / "large.png").write_bytes(blank_png(side, side, 8 if colour else 1, colour))
    words = [sys.executable, "-c", MEASURE, tmp_path / "small.png", tmp_path / "large.png"]
    said = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert MOST_PIXELS < json.loads(said.stdout) < STATED
