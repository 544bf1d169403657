import numpy as np
import pytest
import torch

from fedhello.config.load import load_config
from fedhello.config.settings import model_settings
from fedhello.data.batches import Images
from fedhello.data.dataset import DataSet, Picture
from fedhello.data.pictures import DecodedLater
from fedhello.errors import DataError
from fedhello.model.sources import IMAGES
from fedhello.setup import encoding as samples
from fedhello.setup.model import load_model
from fedhello.setup.prepare import prepare


def test_images_beyond_memory_are_decoded_batch_by_batch(digits_place, monkeypatch):
    monkeypatch.chdir(digits_place)
    config = load_config(digits_place / "digits.yaml")
    eager = prepare(config).server.test
    monkeypatch.setattr(samples, "IN_MEMORY", 0)
    lazy = prepare(config).server.test
    assert isinstance(lazy, Images)
    assert isinstance(lazy.pixels, DecodedLater)
    positions = np.array([3, 0, 5])
    one, other = eager.batch(positions), lazy.batch(positions)
    assert torch.equal(one.inputs["pixel_values"], other.inputs["pixel_values"])
    assert torch.equal(one.labels, other.labels)


def test_a_broken_image_beyond_memory_ends_the_run_before_it_starts(digits_place, monkeypatch):
    monkeypatch.chdir(digits_place)
    config = load_config(digits_place / "digits.yaml")
    model = prepare(config).model
    good, broken = Picture(np.zeros((8, 8), dtype=np.uint8), "good"), Picture(b"no image", "photos/bad.png")
    data = DataSet((good, broken, broken), np.zeros(3, dtype=int), ("a",), "images")
    monkeypatch.setattr(samples, "IN_MEMORY", 0)
    with pytest.raises(DataError, match=r"photos/bad\.png cannot be decoded .* This is the case for 2 of 3 images\."):
        samples.encode(data, model, config.data.max_length)


def test_without_a_processor_the_size_is_the_models_and_that_is_said(digits_place, monkeypatch):
    monkeypatch.chdir(digits_place)
    config = load_config(digits_place / "digits.yaml")
    picture = Picture(np.full((8, 8), 51, dtype=np.uint8), "grey")
    data = DataSet((picture,), np.zeros(1, dtype=int), ("a",), "images")
    found, notes = samples.encode(data, load_model(model_settings(config), ("a", "b"), IMAGES), config.data.max_length)
    assert found.batch(np.array([0])).inputs["pixel_values"].unique().tolist() == pytest.approx([(0.2 - 0.5) / 0.5])
    assert notes == ["seer has no image processor; images are scaled to 8×8, its image_size, and normalised to −1 … 1"]


def test_what_is_cut_of_the_public_set_is_said(workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(workplace)
    (tmp_path / "public.csv").write_text(f"text,label\n{'gold ' * 20},metal\ngold,metal\nmelon,fruit\n")
    notes = prepare(load_config(workplace / "tiny.yaml", [f"data.public={tmp_path / 'public.csv'}"])).notes
    assert "data.public: 1 of 3 texts were cut to data.max_length, 16 tokens" in notes
