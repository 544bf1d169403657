import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.data.batches import Examples, evaluation_batches, training_batches
from fedhello.data.encoding import tokenise
from fedhello.data.ragged import Ragged
from fedhello.errors import DataError

few = settings(max_examples=60, deadline=None, derandomize=True)
lengths_of = st.lists(st.integers(1, 128), min_size=1, max_size=120).map(np.array)


def rng(seed=0):
    return np.random.default_rng(seed)


def examples(*rows, labels=None, pad=9):
    labels = np.arange(len(rows)) if labels is None else np.array(labels)
    return Examples(Ragged.of(rows), labels, pad)


def padded_tokens(lengths, batches):
    return sum(len(batch) * int(lengths[batch].max()) for batch in batches)


def test_a_batch_is_padded_to_its_longest_sample_and_no_further():
    batch = examples([1, 2, 3], [4], [5, 6], [7, 7, 7, 7]).batch(np.array([0, 1, 2]))
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9], [5, 6, 9]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert batch.labels.tolist() == [0, 1, 2]
    assert {value.dtype for value in (*batch.inputs.values(), batch.labels)} == {torch.int64}


def test_the_mask_covers_real_tokens_that_equal_the_padding():
    batch = examples([9, 9], [1]).batch(np.array([0, 1]))
    assert batch.inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_a_batch_keeps_the_order_of_its_positions():
    batch = examples([1], [2], [3], labels=[10, 20, 30]).batch(np.array([2, 0]))
    assert batch.inputs["input_ids"].tolist() == [[3], [1]]
    assert batch.labels.tolist() == [30, 10]


def test_a_batch_moves_to_a_device_whole():
    batch = examples([1, 2]).batch(np.array([0])).to(torch.device("meta"))
    assert {value.device.type for value in (*batch.inputs.values(), batch.labels)} == {"meta"}


def test_a_subset_keeps_samples_labels_and_padding_together():
    part = examples([1], [2, 2], [3, 3, 3], labels=[10, 20, 30]).subset(np.array([2, 1]))
    assert len(part) == 2
    assert part.lengths().tolist() == [3, 2]
    assert part.labels.tolist() == [30, 20]
    assert part.pad == 9


def words(texts, *, truncation, max_length=None, **_):
    """Stand in for a tokenizer: each word becomes its length, between 101 and 102."""
    ids = [[101, *map(len, text.split()), 102] for text in texts]
    if truncation:
        ids = [row if len(row) <= max_length else [*row[: max_length - 1], 102] for row in ids]
    return {"input_ids": ids}


words.pad_token_id = 0


def test_tokenise_cuts_only_what_is_too_long_and_counts_it():
    found, cut = tokenise(["a bb ccc dddd", "a bb", "a"], np.array([0, 1, 0]), words, max_length=4)
    assert cut == 1
    assert [row.tolist() for row in found.tokens] == [[101, 1, 2, 102], [101, 1, 2, 102], [101, 1, 102]]
    assert found.labels.tolist() == [0, 1, 0]
    assert found.pad == 0


def test_tokenise_cuts_nothing_that_just_fits():
    found, cut = tokenise(["a bb"], np.array([0]), words, max_length=4)
    assert cut == 0
    assert found.lengths().tolist() == [4]


@few
@given(lengths=lengths_of, batch_size=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_training_batches_cover_each_sample_once_in_batches_of_even_size(lengths, batch_size, seed):
    batches = list(training_batches(lengths, batch_size, rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    sizes = [len(batch) for batch in batches]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size), "no more batches than needed"


@few
@given(lengths=lengths_of, batch_size=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_the_widest_training_batch_comes_first(lengths, batch_size, seed):
    widths = [len(batch) * int(lengths[batch].max()) for batch in training_batches(lengths, batch_size, rng(seed))]
    assert widths[0] == max(widths)


@few
@given(lengths=lengths_of, batch_size=st.integers(1, 20))
def test_evaluation_batches_cover_each_sample_once_longest_first(lengths, batch_size):
    batches = list(evaluation_batches(lengths, batch_size))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.all(np.diff(lengths[order]) <= 0)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert len(batches[-1]) <= batch_size


def test_evaluation_of_nothing_has_no_batches():
    assert list(evaluation_batches(np.array([], dtype=int), 4)) == []


def test_batches_of_like_length_waste_little_on_padding():
    # Lengths 1 … 320, uniform. Random batches of 16 pad to about 16/17 of 320, that is 301 tokens for 160 on average.
    lengths = rng().integers(1, 321, size=1600)
    real = int(lengths.sum())
    at_random = padded_tokens(lengths, np.array_split(rng(1).permutation(1600), 100))
    training = padded_tokens(lengths, training_batches(lengths, 16, rng(2)))
    evaluation = padded_tokens(lengths, evaluation_batches(lengths, 16))
    assert at_random > 1.7 * real
    assert training < 1.1 * real
    assert evaluation < 1.02 * real


def test_training_batches_are_repeatable_by_seed_and_change_with_it():
    lengths = rng().integers(1, 50, size=100)

    def epoch(seed):
        return [batch.tolist() for batch in training_batches(lengths, 8, rng(seed))]

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    assert {tuple(sorted(batch)) for batch in epoch(3)} != {tuple(sorted(batch)) for batch in epoch(4)}


def test_training_batches_are_not_ordered_by_length():
    lengths = np.arange(1, 161)
    widths = [int(lengths[batch].max()) for batch in training_batches(lengths, 10, rng())]
    assert widths[1:] not in (sorted(widths[1:]), sorted(widths[1:], reverse=True))


@pytest.mark.parametrize(("samples", "sizes"), [(7, [2, 2, 3]), (6, [3, 3]), (1, [1]), (3, [3])])
def test_the_last_training_batch_is_never_a_small_remainder(samples, sizes):
    lengths = np.ones(samples, dtype=int)
    assert sorted(len(batch) for batch in training_batches(lengths, 3, rng())) == sizes


def test_many_texts_are_tokenised_a_few_at_a_time_as_if_at_once(monkeypatch):
    asked = []

    def tokenizer(texts, **how):
        asked.append((len(texts), how["truncation"]))
        return words(texts, **how)

    tokenizer.pad_token_id = 0
    texts = ["a bb ccc dddd"[: 2 * (i % 7) + 1] for i in range(10)]
    whole, cut = tokenise(texts, np.arange(10), tokenizer, 5)
    asked.clear()
    monkeypatch.setattr("fedhello.data.encoding.CHUNK", 4)
    found, cut_too = tokenise(texts, np.arange(10), tokenizer, 5)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in whole.tokens]
    assert cut == cut_too > 0
    # Texts are tokenised again to be cut only where one is too long.
    assert asked == [(4, False), (4, False), (4, True), (2, False)]

    def letters(texts, **_):
        return {"input_ids": [[1] * len(text) for text in texts]}

    with pytest.raises(DataError, match=r"none of text 6\."):
        tokenise([*texts[:5], "", *texts[6:]], np.arange(10), letters, 5)


def test_parts_of_samples_share_their_tokens():
    whole = examples(*([i, i] for i in range(100)))
    part = whole.subset(np.arange(1, 100, 2)).subset(np.arange(10, 20))
    assert part.tokens.values is whole.tokens.values
    assert part.batch(np.array([0, 9])).inputs["input_ids"].tolist() == [[21, 21], [39, 39]]
