"""How a model computes its attention: the same up to rounding, and back again."""

import pytest
import torch

from fedhello.errors import ModelError
from fedhello.model.attention import attention_of, computed_by, drops_attention, set_attention
from fedhello.model.evaluation import logits


def test_results_differ_by_rounding_alone_and_the_default_is_what_was_loaded(tiny_model, random_examples):
    model, data = tiny_model(), random_examples()
    fused = logits(model, data)
    with computed_by(model, "eager"):
        assert attention_of(model) == "eager"
        eager = logits(model, data)
    assert attention_of(model) == "sdpa"
    assert torch.allclose(fused, eager, atol=1e-6)
    set_attention(model, "eager")
    assert torch.equal(logits(model, data), eager)
    set_attention(model, "default")
    assert attention_of(model) == "sdpa"
    assert torch.equal(logits(model, data), fused)


def test_the_context_ends_with_an_error_too(tiny_model):
    model = tiny_model()
    with pytest.raises(KeyError), computed_by(model, "eager"):
        raise KeyError
    assert attention_of(model) == "sdpa"


def test_what_a_model_does_not_have_is_one_sentence(tiny_model, monkeypatch):
    model = tiny_model(attention="eager")
    monkeypatch.setattr(type(model.base), "set_attn_implementation", lambda *_: None)
    with pytest.raises(ModelError, match="to compute attention by sdpa; it has eager alone"):
        set_attention(model, "sdpa")


@pytest.mark.parametrize(("dropout", "drops"), [(0.0, False), (0.1, True)])
def test_dropout_of_attention_is_known_from_the_configuration(dropout, drops, tiny_model):
    assert drops_attention(tiny_model(dropout=dropout)) == drops
