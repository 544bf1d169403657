import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedhello.data import cache, encoding, ragged
from fedhello.data.batches import Examples
from fedhello.data.encoding import tokenise
from fedhello.data.ragged import Ragged
from fedhello.errors import DataError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "LEAST", 2)
    return tmp_path / "kept"


def tokenizer(words=("a", "b"), **settings):
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[UNK]", **settings)


SAMPLES = Examples(
    tokens=Ragged.of([[1, 2, 3], [4], [5, 6]]),
    labels=np.array([0, 1, 0]),
    pad=9,
    segments=Ragged.of([[0, 1, 1], [0], [0, 1]]),
    answers=np.array([2, 1, 1]),
)


def same(one, other):
    assert [list(t) for t in one.tokens] == [list(t) for t in other.tokens]
    assert [list(t) for t in one.segments] == [list(t) for t in other.segments]
    assert one.answers.tolist() == other.answers.tolist()
    assert one.pad == other.pad


def test_what_is_stored_is_found_again_with_the_labels_of_now(place):
    assert cache.load("key", SAMPLES.labels) is None
    cache.store("key", SAMPLES, cut=1)
    found, cut = cache.load("key", np.array([1, 1, 1]))
    same(found, SAMPLES)
    assert (cut, found.labels.tolist()) == (1, [1, 1, 1])
    assert [path.name for path in (place / "tokens").iterdir()] == ["key.npz"]


def test_large_ones_are_mapped_and_read_only(place, monkeypatch):
    monkeypatch.setattr(cache, "IN_MEMORY", 8)
    cache.store("key", SAMPLES, cut=0)
    found, _ = cache.load("key", SAMPLES.labels)
    same(found, SAMPLES)
    mapped = found.tokens.values, found.segments.values
    assert all(isinstance(one, np.memmap) and one.dtype == np.int32 and not one.flags.writeable for one in mapped)
    ours, theirs = (one.subset(np.array([2, 0])).batch(np.array([1, 0])) for one in (found, SAMPLES))
    assert all(torch.equal(value, theirs.inputs[name]) for name, value in ours.inputs.items())


@pytest.mark.parametrize("least", [8, 2**25])
def test_a_damaged_byte_is_seen(least, place, monkeypatch, caplog):
    monkeypatch.setattr(cache, "IN_MEMORY", least)
    cache.store("key", SAMPLES, cut=0)
    file = place / "tokens" / "key.npz"
    content = file.read_bytes()
    tokens = np.arange(1, 7, dtype=np.int32).tobytes()
    assert content.count(tokens) == 1
    file.write_bytes(content.replace(tokens, tokens[:-1] + b"\1"))
    assert cache.load("key", SAMPLES.labels) is None
    assert "tokenised again" in caplog.text


def test_tokens_that_are_too_many_for_memory_go_to_a_file_that_is_gone_at_the_end(place, monkeypatch):
    texts, seconds = ["a b a", "b", "a a b b"] * 5, ["b", "a a", "b"] * 5
    words = tokenizer(model_input_names=["input_ids", "token_type_ids"])
    monkeypatch.setattr(encoding, "CHUNK", 2)

    def encoded():
        return tokenise(texts, np.zeros(15, dtype=int), words, 4, seconds)

    (inside, cut), _ = encoded(), monkeypatch.setattr(ragged, "IN_MEMORY", 40)
    outside, cut_too = encoded()
    assert isinstance(outside.tokens.values, np.memmap) and not isinstance(inside.tokens.values, np.memmap)
    assert cut == cut_too > 0
    assert [list(row) for row in outside.tokens] == [list(row) for row in inside.tokens]
    assert [list(row) for row in outside.segments] == [list(row) for row in inside.segments]
    assert list((place / "tokens").iterdir()) == []

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "spill", full)
    with pytest.raises(DataError, match=r"room on disk for tokens .* No space left"):
        encoded()


def test_a_file_that_cannot_be_read_is_said_and_made_anew(place, caplog):
    cache.store("key", SAMPLES, cut=0)
    (place / "tokens" / "key.npz").write_bytes(b"PK no zip")
    assert cache.load("key", SAMPLES.labels) is None
    assert "tokenised again\n" in caplog.text


def test_few_samples_and_an_empty_variable_keep_nothing(place, monkeypatch):
    cache.store("key", SAMPLES.subset(np.array([0])), cut=0)
    monkeypatch.setenv(cache.VARIABLE, "")
    cache.store("key", SAMPLES, cut=0)
    assert not place.exists()


def test_a_folder_that_cannot_be_written_is_said(place, caplog):
    place.write_text("a file")
    cache.store("key", SAMPLES, cut=0)
    assert "tokens are not cached" in caplog.text


def test_the_key_depends_on_tokenizer_settings_and_texts_and_on_nothing_else():
    key = cache.key_of(tokenizer(), ["a b", "b"], 32)
    assert key == cache.key_of(tokenizer(), ["a b", "b"], 32)
    others = {
        cache.key_of(tokenizer(("a", "c")), ["a b", "b"], 32),
        cache.key_of(tokenizer(eos_token="a"), ["a b", "b"], 32),
        cache.key_of(tokenizer(), ["a b", "b"], 33),
        cache.key_of(tokenizer(), ["a bb", ""], 32),
        cache.key_of(tokenizer(), [("a b", "b")], 32),
        cache.key_of(tokenizer(model_input_names=["input_ids", "token_type_ids"]), ["a b", "b"], 32),
        cache.key_of(tokenizer(truncation_side="left"), ["a b", "b"], 32),
    }
    assert len(others | {key}) == 8


def test_a_tokenizer_that_does_not_tell_what_it_does_has_no_key():
    assert cache.key_of(object(), ["a"], 32) is None
    cache.store(None, SAMPLES, cut=0)
    assert cache.load(None, SAMPLES.labels) is None
