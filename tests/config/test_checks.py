import pytest
from refused import refusal

from fedhello.client.loss import LOSSES
from fedhello.config.checks import ignored
from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.methods import METHODS


@pytest.mark.parametrize(("name", "found", "wanted"), [("helora-pad", "blocks", "rank"), ("gd-hla", "rank", "blocks")])
def test_a_budget_of_the_other_kind_is_refused(name, found, wanted):
    said = refusal(f"method.name={name}", f"clients.tiers=[{{share: 1, {found}: 2}}]", "method={name: " + name + "}")
    assert said.startswith(f"expected clients.tiers.0 to state {wanted} or bytes, since {name} allocates")
    assert f"found only {found}: 2" in said


def test_a_budget_of_bytes_suits_every_method():
    for name in METHODS:
        config = load_config(None, [f"method={{name: {name}}}", "clients.tiers=[{share: 1, upload: 1MB}]"])
        assert config.method.name == name
        assert config.clients.tiers[0].upload == 10**6


@pytest.mark.parametrize("weights", ["model.dtype=bfloat16", "model.quantisation=8bit", "model.quantisation=4bit"])
def test_products_are_added_to_exact_weights_alone(weights):
    ranks = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    refused = set()
    for name in METHODS:
        try:
            load_config(None, [weights, f"method.name={name}", ranks])
        except ConfigError as error:
            assert "adds products to the frozen weights" in str(error)
            refused.add(name)
    assert refused == {"fed-plora", "flora", "fedex-lora"}


def test_magnitudes_are_for_methods_that_average_layer_by_layer_without_scores():
    ranks = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    taken = set()
    for name in METHODS:
        try:
            load_config(None, ["model.lora.dora=true", f"method.name={name}", ranks])
            taken.add(name)
        except ConfigError as error:
            assert str(error).startswith(f"expected model.lora.dora=false, since {name} ")
    allocate_blocks = {"gd-hla", "rgd-hla", "straggler", "exclusive", "full", "centralised", "fedra", "fedra-mask"}
    # The others give clients parts of the factors, which is seen when they allocate.
    assert taken == allocate_blocks | {
        "head-only",
        "server-only",
        "legend",
        "fedit",
        "rbla",
        "ffa-lora",
        "rolora",
        "fedquad",
    }


def test_a_robust_rule_needs_a_quorum_of_as_many_as_it_bears():
    rule = ["method.name=full", "train.clients_per_round=10", "defence.rule=median", "defence.byzantine=3"]
    assert "expected a quorum of at least 7 clients" in refusal(*rule)
    assert "Raise train.quorum to 0.7" in refusal(*rule)
    assert load_config(None, [*rule, "train.quorum=0.7"]).train.quorum == 0.7
    assert load_config(None, [*rule, "defence.clip=1.0"]).defence.clip == 1.0


@pytest.mark.parametrize(
    ("words", "why"),
    [(["model.head=prototypes"], "only a solved head"), (["model.train_head=true"], "trains adapts itself")],
)
def test_a_head_that_cannot_follow_the_features_is_not_asked_to(words, why):
    assert why in refusal("model.drift_compensation=true", *words)


def test_only_one_global_classifier_is_selected():
    assert "train.selection=last" in refusal("train.selection=validation", "model.head=local")


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.averages_layerwise])
def test_a_servers_step_is_for_methods_that_average_layer_by_layer(name):
    tiers = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    said = refusal(f"method={{name: {name}}}", tiers, "train.server.name=adam", "data.public=9")
    assert said.startswith(f"expected train.server.name=none, since {name} does not average layer by layer")


@pytest.mark.parametrize(("name", "why"), [("flora", "frozen weights"), ("local-only", "several models")])
def test_the_search_needs_a_round_that_can_be_left_out(name, why):
    tiers = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    assert why in refusal(f"method={{name: {name}}}", tiers, "train.server.name=search")


def test_the_search_needs_a_head_that_is_shared():
    assert "found model.head=local" in refusal("model.head=local", "train.server.name=search")


@pytest.mark.parametrize("name", ["flexlora", "rbla", "flora"])
def test_control_variates_need_factors_of_one_shape(name):
    tiers = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    assert "cannot be compared" in refusal(f"method={{name: {name}}}", tiers, "train.scaffold=true")


def test_distillation_needs_a_head_that_is_shared():
    assert "found model.head=local" in refusal("model.head=local", "train.distillation=1")


@pytest.mark.parametrize(
    ("also", "why"),
    [
        (["privacy.epsilon=8", "privacy.unit=sample"], "privacy.unit=sample clips the gradient of each sample"),
        (["method={name: hetlora}", "clients.tiers=[{share: 1, rank: 4}]"], "method.name=hetlora adds a regulariser"),
        (["model.quantisation=4bit"], "model.quantisation=4bit have no forward mode"),
        (["train.loss=of_its_own"], "train.loss=of_its_own is not the package's own"),
    ],
)
def test_what_training_without_backward_does_not_go_with(also, why, monkeypatch):
    monkeypatch.setitem(LOSSES.table, "of_its_own", lambda z, y: z.sum())
    load_config(None, ["train.activations=forward"])
    load_config(None, [*also, "train.activations=keep"])
    with pytest.raises(ConfigError, match=rf"^expected train\.activations=keep.*{why}.*; found forward\.$"):
        load_config(None, [*also, "train.activations=forward"])


@pytest.mark.parametrize("words", [["privacy.epsilon=8", "train.sampling=poisson"], ["defence.rule=median"]])
def test_steps_that_a_release_or_a_rule_would_leave_out_are_refused(words):
    load_config(None, ["method.name=fed-hello", *words])
    with pytest.raises(ConfigError, match=r"fed-pilot (needs|does) more than"):
        load_config(None, ["method.name=fed-pilot", *words])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["run.engine=flower", "run.cache_folder=x"], "run.cache_folder is for clients that train on this machine"),
        (["run.cache_folder=x"], "run.cache_folder is not used, since no tier has a cache"),
        (["train.tangents=8"], "train.tangents is for train.activations=forward"),
    ],
)
def test_keys_that_change_nothing_are_said(words, why):
    assert ignored(load_config()) == []
    (note,) = ignored(load_config(None, words))
    assert note.startswith(why)
