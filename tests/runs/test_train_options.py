"""The options of local training and of the server's step, from the configuration to where they act."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from machines import CONFIG

from fedhello.aggregation.server import STEPS, ServerStep
from fedhello.config.load import load_config
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.server import _invitation, served
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import rounds, start
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
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
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
        with pytest.raises(ConfigError, match="hold only one class and are not invited"):
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


def test_the_servers_step_is_part_of_the_method(place):
    config = load_config(place / "tiny.yaml", ["train.server.name=adam", "data.proxy=3"])
    assert prepare(config).method.aggregate.keywords["step"] == ServerStep("adam", 0.01)
    config = load_config(place / "tiny.yaml", ["train.server.name=none", "data.proxy=3"])
    assert not {"step", "losses"} & prepare(config).method.aggregate.keywords.keys()


def test_a_run_that_searches_records_its_steps_and_goes_on_bit_for_bit(place, call):
    words = [
        "tiny.yaml", "model.head=solved", "train.server.name=search", "data.proxy=3", "method.warmup=1", "--quiet",
        "train.lr_schedule=constant",
    ]  # fmt: skip
    assert call(place, "run", *words, "run.name=whole", "train.rounds=3")[0] == 0
    assert call(place, "run", *words, "run.name=parts", "train.rounds=1")[0] == 0
    assert call(place, "resume", "runs/parts", "train.rounds=3", "--quiet")[0] == 0
    whole, parts = (RunFolder(place / "runs" / name) for name in ("whole", "parts"))
    steps = [record.report.step for record in whole.rounds()]
    assert set(steps) <= set(STEPS)
    assert [record.report.step for record in parts.rounds()] == steps
    file = "adapter/adapter_model.safetensors"
    assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()
    assert stored_config(whole.path).train.server.name == "search"


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


def test_distillation_needs_three_classes(workplace):
    with contextlib.chdir(workplace), pytest.raises(ConfigError, match="at least 3 classes"):
        prepare(load_config(workplace / "tiny.yaml", ["train.distillation=1"]))


def test_a_client_that_is_slower_than_the_server_accepts_says_so_and_joins(place, monkeypatch, capsys):
    monkeypatch.setattr("fedhello.network.preparation.measure_speed", lambda *_: 9e6)
    told = json.loads(_invitation(load(served(load_config(place / "net.yaml", ["data.proxy=3"]))), "r")["config"])
    options = ClientOptions("a", data="texts.csv", part=0, model="tiny")
    assert prepare_client(options, told, ["apple", "iron", "river"]).facts.speed == 1e8
    assert "reaches 0.009 GFLOP/s now; it reports 0.1" in capsys.readouterr().err


def test_a_run_says_what_rounds_without_a_step_cost(place, call):
    assert (
        call(
            place, "run", "tiny.yaml", "model.head=solved", "data.proxy=3", "train.lr=1e-30", "run.name=still",
            "train.server.name=search",
        )[0] == 0
    )  # fmt: skip
    found = RunFolder(place / "runs" / "still").summary().to_dict()
    records = RunFolder(place / "runs" / "still").rounds()
    sent = sum(client.bytes_up for record in records for client in record.report.clients)
    assert found["search"] == {"rounds": found["rounds"], "taken": 0, "bytes_up_in_vain": sent}
    assert any("0 of" in note and "head-only costs one exchange" in note for note in found["notes"])
    assert call(place, "run", "tiny.yaml", "model.head=solved", "method={name: head-only}", "run.name=alone")[0] == 0
    assert RunFolder(place / "runs" / "alone").summary().search is None


def test_a_pattern_that_is_chosen_is_named_with_its_reason(place, call):
    words = ["tiny.yaml", "data.proxy=3", "method={name: rgd-hla, pattern: auto}"]
    code, out, _ = call(place, "plan", *words)
    assert code == 0
    assert "method.pattern: auto is inverted_triangle, since numbers of blocks stand for memory and time" in " ".join(
        out.split()
    )


def test_a_run_without_backward_keeps_its_budgets_and_closes_blocks(place):
    method = "method={name: gd-hla, pattern: triangle, freeze_from_below: 1}"
    tiers = "clients.tiers=[{share: 1, memory: 30 MB}]"
    how = ["train.activations=forward", "train.tangents=2", "train.rounds=3", "model.head=frozen", tiers, method]
    session = prepare(load_config(place / "net.yaml", how))
    assert session.engine.settings.tangents == 2
    reports = [result.report for _, result in rounds(session, start(session).state)]
    clients = [client for report in reports for client in report.clients]
    assert clients and not any(report.over_budget or report.rejections for report in reports)
    for client in clients:
        assert set(client.policies[min(client.blocks) :]) == {"forward"}
        assert client.metrics["saved_bytes"] == 0
        assert 0 < client.metrics["peak_bytes"] <= client.metrics["predicted_peak_bytes"] * 1.1
