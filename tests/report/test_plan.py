import json

import pytest

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.engine.wire import encode_tensors
from fedhello.errors import ConfigError
from fedhello.model.statistics import as_sent
from fedhello.report import plan
from fedhello.setup.prepare import prepare

HEAD_ONLY = ["method.name=head-only", "train.rounds=1"]


@pytest.mark.parametrize(
    ("words", "chosen"),
    [([], "full"), (["model.moments=diagonal"], "diagonal"), (["model.moments={sketch: 4}"], "sketch 4")],
)
def test_the_plan_says_the_bytes_that_are_sent(words, chosen, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    session = prepare(load_config(workplace / "tiny.yaml", [*HEAD_ONLY, *words]))
    head = plan.describe(session)["head"]
    assert head["chosen"] == chosen
    sent = {len(encode_tensors(as_sent(one.sums))) for one in session.engine.head_sums()}
    assert sent == {head["bytes"][chosen]}
    assert {"full", "diagonal", "sketch 64", "sketch 128", "sketch 256", "means"} <= head["bytes"].keys()


def test_the_plan_of_a_head_that_needs_no_sums_says_nothing_of_them(workplace, call):
    for words in (["model.head=aggregate"], ["method.name=server-only"]):
        code, out, err = call(workplace, "plan", "tiny.yaml", "--json", *words)
        assert code == 0, err
        assert json.loads(out)["head"] is None


def test_each_tier_shows_what_its_clients_would_train_and_how_often(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    session = prepare(load_config(workplace / "tiny.yaml", ["method.name=rgd-hla"]))
    found = plan.describe(session)
    json.dumps(found)
    assert [tier["clients"] for tier in found["tiers"]] == [2, 2]
    for tier, capacity in zip(found["tiers"], (1, 3), strict=True):
        assert sum(tier["frequency"]) == pytest.approx(capacity)
    assert found["tiers"][1]["frequency"] == [1.0] * 3
    with pytest.raises(ConfigError, match="all budgets count blocks"):
        plan.picture(found)


def test_a_plan_is_plain_text_in_a_notebook_too(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter's kernels do
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = str(fh.plan(fh.prepare("tiny.yaml")))
    assert "tier 1, for example ●●●" in text
    assert "\x1b" not in text
