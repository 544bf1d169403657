import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from fedhello.config.load import load_config
from fedhello.config.settings import model_settings
from fedhello.data.dataset import DataSet, Picture
from fedhello.errors import ModelError
from fedhello.model.saving import save_merged
from fedhello.model.sources import IMAGES
from fedhello.setup import encoding as samples
from fedhello.setup.model import load_model


def sighted(folder, kind, **processor):
    """Return a configuration with a model for images of 20×20 and an image processor, and the loaded model."""
    config = getattr(transformers, kind + "Config")(
        image_size=20, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    getattr(transformers, kind + "ForImageClassification")(config).save_pretrained(folder / "model")
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    chosen = load_config(None, [f"model.name={folder / 'model'}", "data.name=embedded:digits", "data.proxy=20"])
    return chosen, load_model(model_settings(chosen), ("a", "b"), IMAGES)


EDGE = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 16}, "resample": 3}


SQUARE = {"image_processor_type": "DeiTImageProcessor", "size": {"height": 24, "width": 24}, "resample": 3}


CROP = {"do_center_crop": True, "crop_size": {"height": 12, "width": 12}}


LARGE = {"do_center_crop": True, "crop_size": {"height": 20, "width": 20}}


@pytest.mark.parametrize(
    ("kind", "processor", "size", "remark"),
    [
        ("Dinov2", EDGE | CROP, 12, "images are scaled to 12×12 by the image processor of model"),
        ("DeiT", SQUARE | LARGE, 20, None),
        ("DeiT", SQUARE | LARGE | {"do_normalize": False}, 20, None),
        ("DeiT", SQUARE | LARGE | {"rescale_factor": 1 / 127.5, "image_mean": [1, 0.9, 0.8]}, 20, None),
    ],
)
def test_images_become_what_the_exported_processor_makes_of_them(kind, processor, size, remark, tmp_path, monkeypatch):
    config, model = sighted(tmp_path, kind, **processor)
    pixels = np.random.default_rng(0).integers(0, 256, size=(30, 50, 3)).astype(np.uint8)
    data = DataSet((Picture(pixels, "noise"),), np.zeros(1, dtype=int), ("a", "b"), "images")
    eager, notes = samples.encode(data, model, config.data.max_length)
    monkeypatch.setattr(samples, "IN_MEMORY", 0)
    lazy, _ = samples.encode(data, model, config.data.max_length)
    assert [note.partition(";")[0] for note in notes] == ([remark] if remark else [])
    assert model.image_shape == (3, size, size)
    save_merged(model, tmp_path / "merged")
    exported = transformers.AutoImageProcessor.from_pretrained(tmp_path / "merged")
    expected = exported(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    for found in (eager, lazy):
        assert torch.allclose(found.batch(np.array([0])).inputs["pixel_values"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("processor", "complaint"),
    [
        (SQUARE | CROP, r"expected images of 20×20, the image_size of model; its image processor makes 12×12"),
        (EDGE | {"do_center_crop": False}, r"bring all images to one size.*found \(3, 16, 26\) and \(3, 26, 16\)"),
        (SQUARE | LARGE | {"image_mean": [0.5]}, r"image_mean of the image processor .* to have 3 values.*found 1"),
        (EDGE | {"size": {"min_pixels": 1, "max_pixels": 4}}, "channels; it raised|size must have one of"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(processor, complaint, tmp_path):
    with pytest.raises(ModelError, match=complaint):
        _, model = sighted(tmp_path, "ViT", **processor)
        samples.encode(DataSet((), np.zeros(0, dtype=int), ("a", "b"), "images"), model, 64)
