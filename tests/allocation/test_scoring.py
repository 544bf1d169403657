import pytest
from pydantic import ValidationError

from fedhello.allocation.scoring import scored, unscored
from fedhello.methods import METHODS


def test_whoever_uses_scores_is_asked_whose_data_serve_and_nobody_else():
    options = {"scores", "score_samples"}
    for method in METHODS.values():
        assert (options <= method.options.model_fields.keys()) == method.uses_scores, method.name
        assert method.uses_scores or method.bind().scoring == unscored()


def test_scores_come_from_a_proxy_set_unless_clients_are_asked():
    assert METHODS["fim-hla"].bind().scoring == scored(scores="proxy", score_samples=64)
    assert METHODS["fim-hla"].bind(scores="clients", score_samples=8).scoring == scored(
        scores="clients", score_samples=8
    )
    with pytest.raises(ValidationError, match="score_samples"):
        METHODS["fim-hla"].bind(score_samples=0)
