"""A run over a network, with workers in this process: the same code as with Flower, without its processes."""

import json
import re
import struct
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.engine.wire import seal
from fedhello.errors import ConfigError, QuorumError, RunFolderError
from fedhello.methods import METHODS
from fedhello.network.resumed import checked
from fedhello.network.server import _invitation, _on_moments, play_over, served
from fedhello.runs.confusion import read_confusion
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import load
from network import config_of, network_of, remote_facts


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def play_network(network, config):
    folder = RunFolder(config_folder(config))
    return folder, play_over(network, load(config), folder, [], lambda line: None).to_dict()


def config_folder(config):
    return Path(config.run.out) / config.run.name


def test_a_run_over_a_network_is_that_of_one_process(place, call):
    folder, summary = play_network(network_of(), config_of(place))
    assert call(place, "run", "net.yaml", "run.name=here", "--quiet")[0] == 0
    here = json.loads((place / "runs" / "here" / "summary.json").read_text())
    ours, theirs = adapter_of(place / "runs" / "here"), adapter_of(folder.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6
    assert read_confusion(folder.path) == read_confusion(place / "runs" / "here") is not None
    for key in ("final", "start", "bytes_down", "samples"):
        assert summary[key] == here[key], key
    assert summary["bytes_up"] == pytest.approx(here["bytes_up"], rel=0.01)  # every update states the id of its run
    assert [tier["blocks_trained"] for tier in summary["tiers"]] == [tier["blocks_trained"] for tier in here["tiers"]]
    described = json.loads((folder.path / "clients.json").read_text())["clients"]
    assert [entry["facts"]["name"] for entry in described] == ["part-000", "part-001", "part-002"]
    assert sum(entry["samples"] for entry in described) == sum(
        entry["samples"] for entry in json.loads((place / "runs" / "here" / "clients.json").read_text())["clients"]
    )


def test_clients_score_over_a_network_as_in_one_process(place, call):
    words = ["data.proxy=0", "method={name: fim-hla, scores: clients, refresh: 1, score_samples: 6}"]
    folder, summary = play_network(network_of(), config_of(place, *words))
    assert call(place, "run", "net.yaml", "run.name=here", "--quiet", *words)[0] == 0
    there, here = ([r.report for r in RunFolder(one).rounds()] for one in (folder.path, place / "runs" / "here"))
    assert len(there) == summary["rounds"] > 0
    for a, b in zip(there, here, strict=True):
        assert a.scores == pytest.approx(b.scores, rel=1e-5)
        assert a.scored is b.scored is True
        assert a.score_bytes_up == b.score_bytes_up > 0
        assert a.score_bytes_down == b.score_bytes_down > 0
        assert a.flags == ()


def test_a_server_that_was_stopped_goes_on_with_the_same_clients_to_the_same_adapter(place):
    config = config_of(place, "train.rounds=3", "run.name=whole")
    whole, _ = play_network(network_of(), config)
    config = config_of(place, "train.rounds=3", "run.name=broken")
    network = network_of()

    def stop(reply):
        raise KeyboardInterrupt

    network.faults["part-001", "train"] = [None, stop]
    broken, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("interrupted", 1)
    assert {worker.ended for worker in network.workers.values()} == {None}  # they wait for the server to be back
    assert config_of(place, "run.name=broken").run.name == "broken"
    _, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("finished", 3)
    assert {worker.ended for worker in network.workers.values()} == {"finished"}
    ours, theirs = adapter_of(whole.path), adapter_of(broken.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6


def test_clients_of_a_run_that_failed_wait_for_the_server_to_be_back(place):
    config = config_of(place, "train.rounds=2", "train.retries=1")
    network = network_of()
    for name in network.workers:
        network.faults[name, "train"] = [lambda reply: {"error": "failed", "detail": "no"}]
    with pytest.raises(QuorumError):
        play_network(network, config)
    assert {worker.ended for worker in network.workers.values()} == {None}
    _, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    assert {worker.ended for worker in network.workers.values()} == {"finished"}


def test_clients_are_not_told_where_things_are_at_the_server(place):
    header, *rows = (place / "texts.csv").read_text().splitlines()
    (place / "held.csv").write_text("\n".join([header, *(f"other {row}" for row in rows)]))
    paths = [f"model.name={place}/tiny", f"data.test={place}/held.csv"]
    told = json.loads(_invitation(load(config_of(place, *paths)), "r")["config"])
    assert str(place) not in json.dumps(told)
    assert told["data"]["test"] == "./held.csv"
    assert (told["model"]["name"], told["data"]["name"]) == ("./tiny", "./texts.csv")
    assert "out" not in told["run"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.name=centralised", "needs all data in one place"),
        ("model.head=local", "head that the server can evaluate"),
        ("clients.dropout=0.5", "lost by themselves"),
        ("clients.tiers=[{share: 1, blocks: 1, cache: 1MB}]", "keep no activations yet"),
    ],
)
def test_what_cannot_be_played_over_a_network_is_refused(place, override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_of(place, override)


def test_the_commands_for_one_machine_refuse_runs_of_many(place, call):
    code, _, err = call(place, "run", "net.yaml", "run.engine=flower")
    assert code == 2
    assert "fedhello server" in err


def test_a_finished_run_is_not_played_again_and_without_a_name_another_folder_is_taken(place):
    play_network(network_of(), config_of(place, "train.rounds=1"))
    with pytest.raises(RunFolderError, match=r"Give another run\.name"):
        checked(RunFolder(place / "runs" / "net"), config_of(place, "train.rounds=1"))
    (place / "runs" / "net").rename(place / "runs" / "rgd-hla-seed0-flower")
    assert config_of(place, "run.name=null").run.name == "rgd-hla-seed0-flower-2"


def test_a_finished_run_goes_on_with_more_rounds_and_another_learning_rate(place):
    play_network(network_of(), config_of(place, "train.rounds=1"))
    folder = RunFolder(place / "runs" / "net")
    config, lr = checked(folder, config_of(place, "train.rounds=3", "train.lr=1e-3", "train.stop={patience: 9}"))
    summary = play_over(network_of(), load(config), folder, [], lambda line: None, lr=lr)
    assert (summary.status, summary.rounds) == ("finished", 3)
    assert [(one.key, one.round, one.after) for one in summary.changes] == [
        ("train.rounds", 1, 3),
        ("train.lr", 1, 1e-3),
    ]
    # So does the same run in one process.
    fh.run("net.yaml", {"train.rounds": 1, "run.name": "here"})
    fh.resume("runs/here", {"train.rounds": 3, "train.lr": 1e-3, "train.stop": {"patience": 9}})
    ours, theirs = adapter_of(place / "runs" / "here"), adapter_of(folder.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6


def test_a_run_over_a_network_stops_by_its_settings(place):
    network = network_of()
    _, summary = play_network(network, config_of(place, "train.target=0.01", "train.selection=last"))
    assert (summary["status"], summary["rounds"]) == ("stopped", 1)
    assert "by train.target" in summary["stopped"]
    assert {worker.ended for worker in network.workers.values()} == {"finished"}


def test_a_run_over_a_network_starts_from_an_existing_adapter_as_in_one_process(place):
    fh.run("net.yaml", {"run.name": "first"})
    folder, summary = play_network(network_of(), config_of(place, "model.adapter=runs/first", "data.label=label"))
    here = fh.run("net.yaml", {"model.adapter": "runs/first", "run.name": "here"}).summary
    assert here.start == fh.load_run("runs/first").summary.final
    ours, theirs = adapter_of(place / "runs" / "here"), adapter_of(folder.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6
    assert [summary[key] for key in ("final", "start", "bytes_down")] == [here.final, here.start, here.bytes_down]
    there, solved = summary["head"]["changes"][0], here.head.changes[0]
    assert there["loss"] == pytest.approx(solved.loss, rel=1e-6), "sums are of features under the adapter"
    assert there["bytes_down"] == solved.bytes_down > 3 * sum(value.nbytes for value in ours.values())
    told = json.loads(_invitation(load(config_of(place, "model.adapter=runs/first")), "r")["config"])
    assert told["model"]["adapter"] is None, "no path of this machine, and no adapter that a client lacks"


OWN = """
import fedhello as fh

def last(context: fh.AllocationContext, *, count: int = 1) -> fh.Allocation:
    L = context.federation.num_blocks
    return fh.Allocation(tuple(range(L - count, L)))

mine = fh.Method("mine", "the last blocks", "-", allocate=last)
"""


def test_a_method_of_ones_own_runs_on_the_server_and_clients_are_not_told_of_it(place):
    (place / "own.py").write_text(OWN)
    try:
        config = served(config_of(place, "method={name: 'own:mine', count: 2}", "run.name=mine"))
        assert json.loads(_invitation(load(config), "r")["config"])["method"]["name"] == "full"
        folder, summary = play_network(network_of(), config)
    finally:
        METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)
    assert summary["status"] == "finished"
    L = len(summary["tiers"][0]["blocks_trained"])
    trained = {tuple(one.blocks) for record in folder.rounds() for one in record.report.clients}
    assert trained == {(L - 2, L - 1)}


def test_the_server_says_that_second_moments_of_few_samples_may_be_kept_back(place):
    members = [remote_facts(0, 16), remote_facts(1, 17), remote_facts(2, 3)]

    def said(*words):
        loaded = load(config_of(place, "model.head=solved", "model.train_head=false", "train.loss=auto", *words))
        return list(_on_moments(loaded, loaded.config, members))

    (note,) = said()
    assert note.startswith("2 of 3 clients have no more samples than 16")
    assert said("privacy.secure=true") == said("model.moments=means") == []


def test_a_client_that_states_too_many_samples_is_capped_over_a_network_and_it_is_said(place):
    """Its update and its head statistics weigh as many samples as the cap allows."""
    network = network_of()

    def overstated(reply):
        facts = json.loads(reply["facts"])
        return {**reply, "facts": json.dumps({**facts, "samples": 2**31 - 1})}

    def louder(reply):
        payload = reply["update"]
        _, length, _ = struct.unpack_from("<4sI32s", payload)
        header, tensors = payload[40 : 40 + length], payload[40 + length :]
        return {"update": seal(re.sub(rb'"samples":\d+', b'"samples":%d' % (2**31 - 1), header), tensors)}

    network.faults["part-001", "join"] = [overstated]
    network.faults["part-001", "train"] = [louder, louder]
    folder, summary = play_network(network, config_of(place, "defence.max_share=2", "run.name=overstated"))
    said = "of the 2,147,483,647 samples that it states, since defence.max_share limits it"
    assert [note for note in summary["notes"] if "head statistics of client 1 count as" in note and said in note]
    assert any(
        "client 1 weighs as" in flag and said in flag for record in folder.rounds() for flag in record.report.flags
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("train.sampling=poisson", "on other machines what clients send must be masked"),
        ("privacy.unit=sample", "on other machines what clients send must be masked"),
    ],
)
def test_what_differential_privacy_needs_on_other_machines_is_checked_before_a_server_starts(words, reason):
    with pytest.raises(ConfigError, match=reason):
        served(load_config(None, ["privacy.epsilon=8", *words.split()]))
