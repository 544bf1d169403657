"""Layers with a weight for each client."""

import pytest
import torch
from torch import nn

from fedhello.errors import ModelError
from fedhello.model.forward import predictions
from fedhello.model.together import each_its_own, owners


def test_each_clients_rows_are_multiplied_with_its_values(tiny_model, random_examples):
    model, data = tiny_model(), random_examples(samples=4)
    model.module.eval()
    names = sorted(model.block_of)
    start = model.read(names)
    layers = owners(model, dict(zip(names, model.set_trainable(names), strict=True)))
    random = torch.Generator().manual_seed(0)
    values = {name: torch.stack([v + 0.1 * torch.randn(v.shape, generator=random) for _ in range(2)])
              for name, v in start.items()}  # fmt: skip
    batch = data.batch(range(4))
    with torch.no_grad(), each_its_own(model, layers, values):
        together = predictions(model, batch).z
    for k, rows in enumerate((slice(0, 2), slice(2, 4))):
        model.write({name: value[k] for name, value in values.items()})
        with torch.no_grad():
            alone = predictions(model, batch).z
        assert torch.allclose(together[rows], alone[rows], atol=1e-5)
        assert not torch.allclose(together[2 - rows.start : 4 - rows.start], alone[2 - rows.start : 4 - rows.start])


def test_a_parameter_that_is_none_of_a_linear_layer_has_no_owner(tiny_model):
    model = tiny_model()
    norm = next(m for m in model.module.modules() if isinstance(m, nn.LayerNorm))
    with pytest.raises(ModelError, match="linear layers alone to train together; norm is of another kind"):
        owners(model, {"norm": norm.weight})
