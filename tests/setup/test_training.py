"""How clients train on a device, and what is calibrated for whom."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from handmade import SETTINGS

from fedhello.client.settings import TrainingSettings
from fedhello.costs import KEEP
from fedhello.errors import ConfigError, ModelError
from fedhello.methods import METHODS
from fedhello.model.attention import attention_of
from fedhello.model.head import HeadSettings
from fedhello.setup import training as module
from fedhello.setup.training import on_device, score_costs, step_costs
from fedhello.types import Budget

COUNTS, BYTES = [Budget(blocks=1), Budget(rank=2)], [Budget(blocks=1), Budget(memory=10**9)]
CPU = torch.device("cpu")


def settings(**changes):
    plain = {
        "rounds": SETTINGS.rounds, "epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 1e-3,
        "lr_schedule": "constant", "lr_decay": 1.0, "weight_decay": 0.0, "momentum": 0.0, "loss": "cross_entropy",
        "autocast": "none", "measure_memory": False,
    }  # fmt: skip
    return TrainingSettings(**{**plain, **changes})


@pytest.fixture
def calibrated(monkeypatch):
    """What is asked of the calibration, whose result is not looked at."""
    asked = []

    def calibrate(model, autocast, policies, answer, train_head):
        asked.append((autocast, list(policies), answer))
        raise StopIteration

    monkeypatch.setattr(module, "calibrate", calibrate)
    return asked


def cost(model, budgets, rule="auto", head=None, **changes):
    return step_costs(model, settings(**changes), head or HeadSettings(), budgets, rule, None)


def test_nothing_is_calibrated_where_nothing_is_predicted(tiny_model, calibrated):
    assert cost(tiny_model(), COUNTS) is None
    with pytest.raises(StopIteration):
        cost(tiny_model(), COUNTS, measure_memory=True)
    with pytest.raises(StopIteration):
        cost(tiny_model(), BYTES, autocast="bfloat16")
    assert [(autocast, policies) for autocast, policies, _ in calibrated] == [
        (False, [KEEP]),  # nothing asks for less memory
        (True, ["keep", "recompute"]),
    ]


@pytest.mark.parametrize(
    ("rule", "policies"),
    [("keep", ["keep"]), ("recompute", ["keep", "recompute"]), ("compress", ["compress", "keep"])],
)
def test_a_rule_is_calibrated_with_its_policies_alone(tiny_model, calibrated, rule, policies):
    with pytest.raises(StopIteration):
        cost(tiny_model(), BYTES, rule)
    assert calibrated[0][1] == policies


def test_what_cannot_be_predicted_or_recomputed_is_refused_in_a_sentence(tiny_model):
    module_ = SimpleNamespace(kind="tensor-classification", allows_recomputation=True)
    with pytest.raises(ConfigError, match=r"expected clients\.tiers to state blocks or rank for a plain module"):
        cost(module_, BYTES)
    assert cost(module_, COUNTS, measure_memory=True) is None
    source = SimpleNamespace(base_name="some/model")
    staged = SimpleNamespace(
        kind="image-classification",
        allows_recomputation=True,
        source=source,
        has_like_blocks=False,
    )
    with pytest.raises(ConfigError, match=r"to state blocks, rank or upload for some/model, whose blocks differ"):
        cost(staged, BYTES)
    once = SimpleNamespace(kind="text-classification", allows_recomputation=False, source=source)
    with pytest.raises(ModelError, match=r"since some/model forbids recomputation .*; found recompute"):
        cost(once, BYTES, "recompute")


def test_budgets_in_bytes_are_refused_where_they_do_not_follow_from_the_calibration(tiny_model, monkeypatch):
    counted, model = module.calibrate, tiny_model(blocks=2)
    for error in (-0.03, 0.11):
        monkeypatch.setattr(module, "calibrate", lambda *a, e=error, **kw: replace(counted(*a, **kw), error=e))
        with pytest.raises(ModelError, match=r"off by [+-]\d+%\. Give clients\.tiers blocks or a rank"):
            cost(model, BYTES)
        assert cost(model, COUNTS, measure_memory=True).error == error


@pytest.mark.parametrize(
    ("head", "trained", "shared"),
    [
        (HeadSettings("solved"), False, False),
        (HeadSettings("solved", trains=True), True, True),
        (HeadSettings("aggregate"), True, True),
        (HeadSettings("local"), True, False),
        (HeadSettings("frozen"), False, False),
    ],
)
def test_a_head_costs_memory_where_it_trains_and_bytes_where_it_is_shared(tiny_model, head, trained, shared):
    model = tiny_model(blocks=2)
    found = cost(model, BYTES, "keep", head)
    assert (found.head_bytes > 0, found.head_shared) == (trained, shared)
    assert (found.rank, found.moments, len(found.block_upload)) == (2, 2, 2)
    head_bytes = sum(value.nbytes for value in model.read(model.head_names).values())
    least = cost(model, BYTES, "keep", HeadSettings("frozen")).fixed_upload
    assert (found.fixed_upload >= least + head_bytes) == shared


def test_scores_are_calibrated_where_clients_score_and_one_has_a_budget_of_memory(tiny_model, monkeypatch):
    monkeypatch.setattr(module, "calibrate_scoring", lambda model, answer: ("measured", answer))
    of = {where: METHODS["fim-hla"].bind(scores=where) for where in ("clients", "proxy")}
    assert score_costs(BYTES, of["clients"], None, 3) == ("measured", 3)
    assert score_costs(COUNTS, of["clients"], None, 3) is score_costs(BYTES, of["proxy"], None, 3) is None


def test_bfloat16_is_chosen_where_it_pays_and_said(tiny_model, random_examples, monkeypatch):
    bound, here = METHODS["rgd-hla"].bind(), (tiny_model(), random_examples())
    for share, pays in ((0.62, True), (0.95, False), (None, False)):
        monkeypatch.setattr(module, "time_in_bfloat16", lambda *_, share=share: share)
        found, notes = on_device(settings(), "auto", bound, *here)
        assert (found.autocast == "bfloat16", len(notes)) == (pays, int(pays))
        assert "a step took 62% of the time" in "".join(notes) or share != 0.62
        for stated in ("none", "bfloat16"):
            assert on_device(settings(autocast=stated), stated, bound, *here) == (settings(autocast=stated), ())


def test_a_methods_own_way_of_training_comes_before_the_settings(tiny_model, random_examples):
    found, _ = on_device(settings(), "none", METHODS["hetlora"].bind(), tiny_model(), random_examples())
    assert found.tail_penalty > 0 == settings().tail_penalty


def test_eager_attention_is_chosen_where_it_pays_and_is_free(tiny_model, random_examples, monkeypatch):
    bound, asked = METHODS["rgd-hla"].bind(), []
    for share, free, used in ((0.62, True, "eager"), (0.95, True, "sdpa"), (None, True, "sdpa"), (0.62, False, "sdpa")):
        monkeypatch.setattr(module, "time_in_eager", lambda *_, share=share, **how: asked.append(how) or share)
        model = tiny_model()
        found, notes = on_device(settings(autocast="bfloat16"), "bfloat16", bound, model, random_examples(), free)
        assert (attention_of(model), len(notes)) == (used, int(used == "eager"))
        assert "a step took 62% of the time; model.attention=default" in "".join(notes) or not notes
        assert found == settings(autocast="bfloat16")
    assert asked == [{"autocast": True, "before": True}] * 3
    # bf16 does not pay with torch's attention, but with the eager one.
    monkeypatch.setattr(module, "time_in_bfloat16", lambda *_: 1.3)
    monkeypatch.setattr(module, "time_in_eager", lambda *_, autocast, before: 0.6 if autocast else 1.0)
    model = tiny_model()
    found, notes = on_device(settings(), "auto", bound, model, random_examples(), attention=True)
    assert (found.autocast, attention_of(model), len(notes)) == ("bfloat16", "eager", 2)
