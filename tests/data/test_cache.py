import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedhello.data import cache
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged


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
