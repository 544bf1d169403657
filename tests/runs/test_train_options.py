"""The options of local training and of the server's step, from the configuration to where they act."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from machines import CONFIG

from fedhello.aggregation.server import STEPS, ServerStep
from fedhello.config.choices import INSTRUCTION, with_choices
from fedhello.config.load import load_config, parse_config
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError
from fedhello.methods import METHODS
from fedhello.network.client import ClientOptions, prepare_client
from fedhello.network.server import _invitation, served
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import load, prepare
from fedhello.types import Update
from network import SETTINGS, remote_tasks

OPTIONS = {
    "adjustment": 0.5,
    "proximal": 0.1,
    "scaffold": True,
    "distillation": 2.0,
    "distillation_temperature": 3.0,
    "lr_head": 4.0,
    "lr_depth": 0.6,
}
THREE = "text,label\n" + "".join(
    f"{word} number {i},{word}\n" for i in range(12) for word in ("apple", "iron", "river")
)


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """A folder with the tiny model and texts of three classes, which is the current one."""
    shutil.copytree(workplace, tmp_path / "place")
    (tmp_path / "place" / "texts.csv").write_text(THREE)
    (tmp_path / "place" / "net.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def words(options):
    return [f"train.{key}={value}" for key, value in options.items()]


def test_every_option_reaches_clients_here_and_elsewhere(place):
    config = served(load_config(place / "net.yaml", [*words(OPTIONS), "train.loss=adjusted"]))
    told = json.loads(_invitation(load(config), "r")["config"])
    labels = ["apple", "iron", "river"]
    there = prepare_client(ClientOptions("a", data="texts.csv", part=0, model="tiny"), told, labels).settings
    here = prepare(load_config(place / "net.yaml", [*words(OPTIONS), "train.loss=adjusted"])).engine.settings
    for settings in (here, there):
        assert {key: getattr(settings, key) for key in OPTIONS} == OPTIONS
        assert settings.loss == "adjusted"
    assert replace(there, measure_process=here.measure_process) == here


@pytest.fixture
def options(monkeypatch):
    """Options of the workers of ``remote_world``, and of the engine that they are compared with."""
    monkeypatch.setattr("network.SETTINGS", replace(SETTINGS, loss="adjusted", **OPTIONS))


def test_clients_elsewhere_train_with_options_bit_for_bit_as_here(options, remote_world):
    _, engine, local = remote_world()
    asked = remote_tasks(local)
    here, there = list(local.train(asked)), list(engine.train(asked))
    assert all(isinstance(reply, Update) for reply in (*here, *there))
    for a, b in zip(here, there, strict=True):
        assert a.tensors.keys() == b.tensors.keys()
        assert all((a.tensors[name] == b.tensors[name]).all() for name in a.tensors)


@pytest.mark.parametrize("loss", ["restricted", "adjusted", "one_vs_all"])
def test_clients_of_one_class_are_invited_unless_the_loss_is_restricted(loss, place):
    one_each = "data.partition={kind: pathological, classes_per_client: 1, minimum: 1}"
    overrides = [one_each, f"train.loss={loss}", "train.rounds=1", "run.name=one", "data.proxy=3"]
    if loss == "restricted":
        with pytest.raises(ConfigError, match="hold one class only and are not invited"):
            prepare(load_config(place / "tiny.yaml", overrides))
        return
    session = prepare(load_config(place / "tiny.yaml", overrides))
    assert [client.classes for client in session.federation.clients if len(client.classes) > 1] == []
    assert len(session.federation.clients) == 4
    assert not any("one class" in note for note in session.notes)


def test_a_run_with_all_options_ends_and_repeats(place, call):
    settings = [*words(OPTIONS), "train.loss=one_vs_all", "train.server={name: yogi}", "data.proxy=3"]
    found = []
    for name in ("a", "b"):
        code, _, err = call(place, "run", "tiny.yaml", f"run.name={name}", "--json", *settings)
        assert code == 0, err
        found.append((place / "runs" / name / "adapter" / "adapter_model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_the_teachers_pass_counts_in_a_rounds_flops(place):
    def flops(*overrides):
        session = prepare(load_config(place / "tiny.yaml", ["train.epochs=4", "data.proxy=3", *overrides]))
        return [costs.flops_outside for costs in session.federation.costs]

    for plain, taught in zip(flops(), flops("train.distillation=1"), strict=True):
        assert taught == plain + plain // 4 > plain


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("{name: avgm}", ServerStep("avgm", 1.0)),
        ("{name: adam}", ServerStep("adam", 0.01)),
        ("{name: adagrad, lr: 0.1, beta1: 0.0, tau: 0.01}", ServerStep("adagrad", 0.1, 0.0, tau=0.01)),
    ],
)
def test_the_servers_rate_follows_its_optimiser_where_none_is_given(server, expected):
    assert load_config(None, [f"train.server={server}"]).train.server.step == expected


def test_the_servers_step_is_part_of_the_method(place):
    config = load_config(place / "tiny.yaml", ["train.server.name=adam", "data.proxy=3"])
    assert prepare(config).method.aggregate.keywords["step"] == ServerStep("adam", 0.01)
    config = load_config(place / "tiny.yaml", ["train.server.name=none", "data.proxy=3"])
    assert not {"step", "losses"} & prepare(config).method.aggregate.keywords.keys()


@pytest.mark.parametrize(
    ("head", "method", "found"),
    [
        ("solved", "rgd-hla", ("cross_entropy", 5e-3, "none", "validation", True)),
        ("solved", "flora", ("cross_entropy", 5e-3, "none", "validation", True)),
        ("solved", "local-only", ("cross_entropy", 5e-3, "none", "last", False)),
        ("solved", "head-only", ("cross_entropy", 5e-3, "none", "last", False)),
        ("prototypes", "rgd-hla", ("restricted", 2e-3, "none", "last", False)),
        ("local", "rgd-hla", ("restricted", 2e-3, "none", "last", False)),
    ],
)
def test_what_auto_stands_for(head, method, found):
    tiers = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    config = load_config(None, [f"model.head={head}", f"method={{name: {method}}}", tiers])
    assert {config.train.loss, config.train.lr, config.train.selection, config.model.drift_compensation} == {"auto"}
    told = with_choices(config)
    chosen = (told.train.loss, told.train.lr, told.train.server.name, told.train.selection)
    assert (*chosen, told.model.drift_compensation) == found
    stated = load_config(
        None,
        [
            f"model.head={head}", "train.loss=adjusted", "train.server.name=avgm", "train.lr=0.1",
            "train.selection=last", "model.drift_compensation=false",
        ],
    )  # fmt: skip
    assert with_choices(stated) == stated


@pytest.mark.parametrize(
    ("words", "why"),
    [(["model.head=prototypes"], "only a solved head"), (["model.train_head=true"], "trains moves by itself")],
)
def test_a_head_that_cannot_follow_the_features_is_not_asked_to(words, why):
    assert why in refusal("model.drift_compensation=true", *words)


def test_only_one_global_classifier_is_selected():
    assert "train.selection=last" in refusal("train.selection=validation", "model.head=local")


@pytest.mark.parametrize("name", ["head-only", "server-only", "local-only"])
def test_methods_without_a_model_to_select_are_compared_with_those_that_have_one(name):
    asked = ["model.drift_compensation=true", "train.selection=validation", f"method={{name: {name}}}"]
    told = with_choices(load_config(None, asked))
    assert (told.model.drift_compensation, told.train.selection) == (False, "last")


def test_a_run_that_searches_records_its_steps_and_goes_on_bit_for_bit(place, call):
    words = [
        "tiny.yaml", "model.head=solved", "train.server.name=search", "data.proxy=3", "method.warmup=1", "--quiet",
        "train.lr_schedule=constant",
    ]  # fmt: skip
    assert call(place, "run", *words, "run.name=whole", "train.rounds=3")[0] == 0
    assert call(place, "run", *words, "run.name=parts", "train.rounds=1")[0] == 0
    assert call(place, "resume", "runs/parts", "train.rounds=3", "--quiet")[0] == 0
    whole, parts = (RunFolder(place / "runs" / name) for name in ("whole", "parts"))
    steps = [entry["step"] for entry in whole.rounds()]
    assert set(steps) <= set(STEPS)
    assert [entry["step"] for entry in parts.rounds()] == steps
    file = "adapter/adapter_model.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()
    assert stored_config(whole.path).train.server.name == "search"


def refusal(*overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


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


def test_a_run_with_control_variates_goes_on_bit_for_bit(place, call):
    words = [
        "tiny.yaml", "method.name=rgd-hla", "data.proxy=3", "train.selection=last", "--quiet",
        "train.lr_schedule=constant", "train.scaffold=true",
    ]  # fmt: skip
    assert call(place, "run", *words, "run.name=uncorrected", "train.rounds=4", "train.scaffold=false")[0] == 0
    assert call(place, "run", *words, "run.name=corrected", "train.rounds=4")[0] == 0
    assert call(place, "run", *words, "run.name=corrected-parts", "train.rounds=2")[0] == 0
    assert call(place, "resume", "runs/corrected-parts", "train.rounds=4", "--quiet")[0] == 0
    file = "adapter/adapter_model.safetensors"
    plain, whole, parts = (
        (place / "runs" / name / file).read_bytes() for name in ("uncorrected", "corrected", "corrected-parts")
    )
    assert whole == parts != plain


def test_distillation_needs_a_head_that_is_shared():
    assert "found model.head=local" in refusal("model.head=local", "train.distillation=1")


def test_distillation_needs_three_classes(workplace):
    with contextlib.chdir(workplace), pytest.raises(ConfigError, match="at least 3 classes"):
        prepare(load_config(workplace / "tiny.yaml", ["train.distillation=1"]))


def test_instruction_data_has_no_classes_to_distil():
    raw = {"data": {"prompt": "a", "response": "b"}, "method": {"name": "rgd-hla"}}
    assert parse_config(raw).train.distillation == 0
    assert INSTRUCTION["train.distillation"] == (0.0,)
    with pytest.raises(ConfigError, match=r"expected train\.distillation to be 0\.0 for instruction data"):
        parse_config({**raw, "train": {"distillation": 1.0}})


@pytest.mark.parametrize(
    "override",
    [
        "train.proximal=-1", "train.distillation_temperature=0", "train.lr_depth=0", "train.lr_depth=1.1",
        "train.lr_head=0", "train.server.beta1=1", "train.server.tau=0", "train.server.name=sgd", "train.loss=focal",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(override):
    assert override.split("=")[0] in refusal(override)


def test_a_client_that_is_slower_than_the_server_accepts_says_so_and_joins(place, monkeypatch, capsys):
    monkeypatch.setattr("fedhello.client.calibration.measure_speed", lambda *_: 9e6)
    told = json.loads(_invitation(load(served(load_config(place / "net.yaml", ["data.proxy=3"]))), "r")["config"])
    options = ClientOptions("a", data="texts.csv", part=0, model="tiny")
    assert prepare_client(options, told, ["apple", "iron", "river"]).facts.speed == 1e8
    assert "reaches 0.009 GFLOP/s now; the server is told 0.1" in capsys.readouterr().err


def test_a_run_says_what_rounds_without_a_step_cost(place, call):
    assert (
        call(
            place, "run", "tiny.yaml", "model.head=solved", "data.proxy=3", "train.lr=1e-9", "run.name=still",
            "train.server.name=search",
        )[0] == 0
    )  # fmt: skip
    found = RunFolder(place / "runs" / "still").summary()
    sent = sum(c["bytes_up"] for entry in RunFolder(place / "runs" / "still").rounds() for c in entry["clients"])
    assert found["search"] == {"rounds": found["rounds"], "taken": 0, "bytes_up_in_vain": sent}
    assert any("0 of" in note and "head-only costs one exchange" in note for note in found["notes"])
    assert call(place, "run", "tiny.yaml", "model.head=solved", "method={name: head-only}", "run.name=alone")[0] == 0
    assert RunFolder(place / "runs" / "alone").summary()["search"] is None


def test_a_pattern_that_is_chosen_is_named_with_its_reason(place, call):
    words = ["tiny.yaml", "data.proxy=3", "method={name: rgd-hla, pattern: auto}"]
    code, out, _ = call(place, "plan", *words)
    assert code == 0
    assert "method.pattern: auto is inverted_triangle, since numbers of blocks stand for memory and time" in " ".join(
        out.split()
    )
