"""The clients of a large run as columns: they come back as they were, and nothing else is read as such."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from fedhello.errors import RunFolderError
from fedhello.runs.client_columns import LEAST, columns_of, entries_of
from fedhello.runs.formats import read_clients, write_clients
from fedhello.session import ClientEntry

MANY = tuple(ClientEntry(3 * k, k % 2, 2 * k + 1, {"a": k, "b ç": k + 1}) for k in range(LEAST + 1))


@pytest.mark.parametrize("entries", [MANY, tuple(replace(entry, labels=()) for entry in MANY)])
def test_many_clients_come_back_from_columns(entries):
    columns = columns_of(entries)
    assert entries_of(columns, "here") == entries
    assert read_clients(json.dumps(write_clients(entries_of(columns, "here"))), "here") == entries
    assert len(columns) < len(json.dumps(write_clients(entries))) / 5


@pytest.mark.parametrize(
    "entries",
    [
        MANY[:-1],
        (*MANY[:-1], replace(MANY[-1], facts={"name": "berlin"})),
        (*MANY[:-1], replace(MANY[-1], labels=("a",))),
        tuple(replace(entry, labels={"a\0": entry.samples}) for entry in MANY),
    ],
)
def test_few_clients_and_those_that_columns_do_not_hold_are_json(entries):
    assert columns_of(entries) is None


def with_columns(**other):
    found = np.load(io.BytesIO(columns_of(MANY)))
    content = io.BytesIO()
    np.savez(content, **{name: found[name] for name in found.files} | other)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_columns(format=np.array(9)), "clients of format 9"),
        (with_columns(tier=np.array([1])), "different lengths"),
        (with_columns(labels=np.zeros((1, 2), dtype=int)), "different lengths"),
        (with_columns(samples=np.zeros(LEAST + 1)), "of the type float64"),
        (with_columns(samples=np.array([{}])), "allow_pickle=False"),
        (b"{}", "expected the columns of clients in here"),
        (columns_of(MANY)[:-99], "expected the columns of clients in here"),
    ],
)
def test_columns_that_cannot_be_read_are_said_in_one_sentence(content, said):
    with pytest.raises(RunFolderError, match=said):
        entries_of(content, "here")


def test_a_damaged_file_is_said_in_one_sentence_whatever_is_damaged():
    content, rng = columns_of(MANY), np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(RunFolderError):
            entries_of(bytes(damaged), "here")
