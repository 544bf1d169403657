"""Each door for data that people bring answers any bytes with rows or with an error of ours, never with another."""

import csv
import io
import json
import random
import warnings

import numpy as np
import pytest

from fedhello.data.columns import read_rows
from fedhello.data.dataset import Columns
from fedhello.data.encoding import tokenise, tokenise_instructions
from fedhello.data.files import read_table
from fedhello.errors import FedhelloError
from fedhello.model.sources import resolve

FEW, MANY = 300, 20_000

TEXTS = [
    "a red rose", "caf\u00e9", "two\nlines, here", 'he said "no"', "\U0001f600 smile", "x;y|z\tw", "1.0", "\u00a0 a",
]  # fmt: skip
LABELS = ["plant", "animal ", "1", "1.0", "true", "caf\u00e9", "cafe\u0301"]
NOTHING = ["", " \u00a0", "nan", "NaN "]
PIECES = [
    b'"', b'""', b",", b";", b"\t", b"|", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe",
    b"\xfe\xff",
    b"[", b"]", b"{", b"}", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"NaN", b"-Infinity", b"1e999", b"null", b"true",
    b"\\ud83d", b"\\u0000", b"\\", b":", b"text", b'"text":', b"label", b"sep=;\n", b"PK\x03\x04", b"PAR1", b"\x1f\x8b",
    "\u2028\u0085\u200b".encode(), b"\xed\xa0\xbd", b" ", b"=", b"\x1a",
]  # fmt: skip


def mutated(rng, content, flips=False):
    """Return the content with a few bytes cut, doubled, changed or put in; or only changed."""
    content = bytearray(content)
    if flips:
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        return bytes(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(content))
        much = rng.choice([1, 1, 2, 8, 64, 400])
        match rng.randrange(6):
            case 0:
                del content[at : at + much]
            case 1:
                content[at:at] = content[at : at + much]
            case 2 if at < len(content):
                content[at] = rng.randrange(256)
            case 3:
                del content[at:]
            case _:
                content[at:at] = rng.choice(PIECES)
    return bytes(content)


ENCODINGS = [None, None, "cp1252", "utf-16-le", "gb18030", "utf-7"]
"""What users may name."""


def rows_of(rng):
    rows = [
        {"text": rng.choice(TEXTS), "label": rng.choice(LABELS), "n": rng.random()} for _ in range(rng.randint(1, 8))
    ]
    if rng.random() < 0.1:
        rows[-1][rng.choice(["text", "label"])] = rng.choice(NOTHING)
    return rows


def csv_of(rng):
    file = io.StringIO()
    writer = csv.DictWriter(
        file, ["text", "label", "n"], delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(["\n", "\r\n", "\r"])
    )
    writer.writeheader()
    writer.writerows(rows_of(rng))
    return file.getvalue().encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))


def json_of(rng):
    rows = rows_of(rng)
    forms = [
        "\n".join(map(json.dumps, rows)),
        json.dumps(rows, indent=rng.choice([None, 1])),
        json.dumps({"data": rows}),
        json.dumps({"text": TEXTS, "label": LABELS}),
        "\r".join(json.dumps(row, ensure_ascii=False) for row in rows),
    ]
    return rng.choice(forms).encode()


def parquet_of(rng):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = rows_of(rng)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    if rng.random() < 0.2:
        columns["label"] = pyarrow.array(columns["label"]).dictionary_encode()
    if rng.random() < 0.2:
        columns["text"] = [[text] for text in columns["text"]]
    if rng.random() < 0.2:
        columns["label"] = [row["label"].encode() for row in rows]
    file = pyarrow.BufferOutputStream()
    codec = rng.choice(["none", "snappy", "gzip", "zstd"])
    parquet.write_table(pyarrow.table(columns), file, compression=codec, use_dictionary=rng.random() < 0.5)
    return file.getvalue().to_pybytes()


def read(path, encoding=None):
    """Read a file as a run would; return its samples, or None where one of our errors says why not."""
    try:
        table = read_table(path, encoding)
        return read_rows(table, Columns("text", "label"))
    except FedhelloError as error:
        sentence = str(error)
        assert path.name in sentence
        assert len(sentence) < 2000
        return None


def fuzz(door, folder, count, seed=0):
    make, suffixes = {
        "csv": (csv_of, (".csv", ".tsv", ".txt", ".csv.gz")),
        "json": (json_of, (".jsonl", ".json")),
        "parquet": (parquet_of, (".parquet",)),
    }[door]
    rng = random.Random(seed)
    read_whole = 0
    for _ in range(count):
        path = folder / f"x{rng.choice(suffixes)}"
        path.write_bytes(mutated(rng, make(rng), flips=door == "parquet" and rng.random() < 0.7))
        found = read(path, rng.choice(ENCODINGS))
        if found is not None:
            read_whole += 1
            assert all(isinstance(text, str) for text in found.inputs)
            assert not {"nan", ""} & {label.casefold() for label in found.labels}
        path.unlink()
    return read_whole


@pytest.mark.parametrize("door", ["csv", "json", "parquet"])
def test_any_bytes_are_rows_or_an_error_of_ours(door, tmp_path):
    fuzz(door, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("door", ["csv", "json", "parquet"])
def test_any_bytes_are_rows_or_an_error_of_ours_many_times(door, tmp_path):
    assert fuzz(door, tmp_path, MANY, seed=1) > MANY // 100


CHARACTERS = [
    "", " ", "\n", "\0", "\x07", "\x7f", "\u200b", "\ufeff", "\u00a0", "\U0001f468\u200d\U0001f469", "\ufffe", "\uffff",
    "\ud83d", "\udfff", "[MASK]", "[SEP]", "##a", "\u0301" * 50, "\u4f60", "\u202e", "{{ x }}", "a" * 3000,
    "word " * 200,     "\U0010ffff", "<s>", "\r\n", "%", "\\",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve("embedded:minilm").location)


def texts_of(rng):
    return ["".join(rng.choices(CHARACTERS, k=rng.randint(0, 4))) for _ in range(2)]


def fuzz_tokenizer(tokenizer, count, seed=0):
    rng = random.Random(seed)
    taken = 0
    for _ in range(count):
        one, other = texts_of(rng)
        for call in (
            lambda one=one, other=other: tokenise([one, other], np.zeros(2, int), tokenizer, 32),
            lambda one=one, other=other: tokenise([one], np.zeros(1, int), tokenizer, 32, seconds=[other]),
            lambda one=one, other=other: tokenise_instructions([(one, other + "x")], np.zeros(1, int), tokenizer, 32),
        ):
            try:
                examples, _ = call()
                taken += 1
                assert all(0 < len(row) <= 32 for row in examples.tokens)
            except FedhelloError as error:
                assert "\ud83d" in one + other or "\udfff" in one + other or "token" in str(error)
    return taken


def test_any_text_is_tokens_or_an_error_of_ours(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fuzz_tokenizer(tokenizer, FEW // 3) > 0


@pytest.mark.slow
def test_any_text_is_tokens_or_an_error_of_ours_many_times(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fuzz_tokenizer(tokenizer, MANY // 3, seed=1) > 0
