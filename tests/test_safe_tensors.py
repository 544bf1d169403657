"""The door for safetensors: whatever comes, as bytes or as a file, the answer is tensors or the asked error."""

import ast
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutated
from safetensors.torch import save

import fedhello
from fedhello.safe_tensors import METADATA, read_json, read_shapes, read_tensors, stated

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.int64), "c": torch.zeros(1, 1).bfloat16()}
SOURCES = Path(fedhello.__file__).parent


class AskedError(Exception):
    pass


def both(payload, folder):
    """Return the same content as bytes and as a file."""
    file = folder / "x.safetensors"
    file.write_bytes(payload)
    return payload, file


def body(text, stated=None):
    raw = text.encode()
    return struct.pack("<Q", len(raw) if stated is None else stated) + raw


def test_bytes_and_files_give_the_same_tensors(tmp_path):
    payload = save(TENSORS, {"head": "x"})
    for source in both(payload, tmp_path):
        found = read_tensors(source, AskedError)
        assert list(found) == [name for name in stated(source, AskedError) if name != METADATA]
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], value) for name, value in TENSORS.items())
        assert stated(source, AskedError)[METADATA] == {"head": "x"}
    assert read_shapes(tmp_path / "x.safetensors", AskedError) == {
        "a": ("F32", [2, 3]), "b": ("I64", [5]), "c": ("BF16", [1, 1]),
    }  # fmt: skip


ENTRY = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "stated header length of -1 bytes, which is beyond their end"),
        (b"1234567", "stated header length of -1 bytes"),
        (body("{}", 99), "99 bytes, which is beyond their end"),
        (body("{}", 2**63), f"{2**63} bytes, which is longer than 1000"),
        (body(json.dumps({"a": "x" * 2000})), "longer than 1000 bytes"),
        (body(f"{{{ENTRY},{ENTRY}}}") + bytes(4), "a key comes twice"),  # the last would win in silence
        (body("[]"), "expected a JSON object; found list"),
        (body('{"a":NaN}'), "NaN is no number"),
        (body("[" * 900), "expected JSON; "),
        (struct.pack("<Q", 3) + b"{\xff}", "expected JSON; .* can't decode byte"),
    ],
)
def test_a_header_that_is_none_is_refused(payload, why, tmp_path):
    for source in both(payload, tmp_path):
        with pytest.raises(AskedError, match=why):
            stated(source, AskedError, 1000)
        with pytest.raises(AskedError):
            read_tensors(source, AskedError)


def test_a_file_that_is_cut_short_or_gone_is_refused(tmp_path):
    file = tmp_path / "x.safetensors"
    for read in (read_tensors, read_shapes):
        with pytest.raises(AskedError, match="No such file"):
            read(file, AskedError)
        file.write_bytes(save(TENSORS)[:-1])
        with pytest.raises(AskedError, match="rror"):
            read(file, AskedError)
        file.unlink()


def test_json_is_read_once_per_key():
    assert read_json(b'{"a": 1}', AskedError) == {"a": 1}
    with pytest.raises(AskedError, match="twice"):
        read_json(b'{"a": 1, "a": 1}', AskedError)


DTYPES = tuple(f'"{name}"'.encode() for name in ("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64"))


@pytest.mark.parametrize("cases", [1000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_whatever_is_damaged_there_are_tensors_or_one_line_and_the_same_from_bytes_and_file(tmp_path, cases):
    rng, good = np.random.default_rng(cases), save(TENSORS)
    head = 8 + int.from_bytes(good[:8], "little")
    words = (*DTYPES, b"-", b"9", b"0", b"[", b"}", (2**63).to_bytes(8, "little"), head.to_bytes(8, "little"))
    read = 0
    for case in range(cases):
        found = []
        for source in both(mutated(rng, good, head if case % 2 else None, words), tmp_path):
            try:
                tensors = read_tensors(source, AskedError).items()
                found.append({name: (value.dtype, value.shape, value.view(-1).tolist()) for name, value in tensors})
            except AskedError as error:
                assert str(error) and "\n" not in str(error), case
                found.append(None)
        assert repr(found[0]) == repr(found[1]), case
        read += found[0] is not None
    assert 0 < read < cases / 2, "some changes are of values alone"


READERS = {"load", "load_file", "load_model", "safe_open", "deserialize"}


def readers(tree):
    """Yield what a module reads safetensors with, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("safetensors"):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("safetensors."):
            names = {node.attr}
        else:
            continue
        yield from ((name, node.lineno) for name in sorted(names & READERS))


def test_there_is_no_other_door():
    found = {
        f"{file.relative_to(SOURCES)}:{line} {what}"
        for file in SOURCES.rglob("*.py")
        if file.name != "safe_tensors.py"
        for what, line in readers(ast.parse(file.read_text(encoding="utf-8")))
    }
    assert found == set()
    code = "from safetensors import safe_open\nfrom safetensors.torch import load as x\nsafetensors.torch.load_file(x)"
    assert [what for what, _ in readers(ast.parse(code))] == ["safe_open", "load", "load_file"]
