"""What leaves a client is what the list says: all messages of a run are recorded and compared with it."""

import json
import struct
from dataclasses import fields
from pathlib import Path

import pytest
import safetensors.torch

from fedhello.client.settings import METRICS
from fedhello.network.leaves import LEAVES, page_table, unlisted
from fedhello.network.registry import ClientInfo
from fedhello.network.server import play_over
from fedhello.privacy.masking import PublicKeys
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import load
from network import config_of, network_of

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "what-leaves-a-client.md"
WORDS = ["data.proxy=0", "method={name: fim-hla, scores: clients, refresh: 1, score_samples: 6}", "train.rounds=1"]


def named(kind, reply):
    """Return the names of all values in a reply, down to those in JSON, headers and safetensors."""
    found = set()
    for field, value in reply.items():
        if field == "facts":
            found |= {f"facts.{name}" for name in json.loads(value)}
        elif field in ("sums", "scores"):
            found |= {f"{field}.{name}" for name in safetensors.torch.load(value)}
        elif field == "update":
            _, length, _ = struct.unpack_from("<4sI32s", value)
            header = json.loads(value[40 : 40 + length])
            metrics = header.pop("metrics")
            found |= {"update.digest", "update.tensors", *(f"update.{name}" for name in header)}
            found |= {f"update.metrics.{name}" for name in metrics}
            assert safetensors.torch.load(value[40 + length :])
        elif field == "keys":
            assert len(value) == 2 * 64  # without a key, nothing is signed
            found |= {f"keys.{one.name}" for one in fields(PublicKeys)}
        elif field == "shares":
            found |= {"sealed"} if kind == "shares" else {f"shares.{name}" for name in json.loads(value)}
        else:
            found.add(field)
    return found


@pytest.fixture(scope="module", params=["plain", "secure"])
def setting(request):
    return request.param


@pytest.fixture(scope="module")
def recorded(setting, workplace, tmp_path_factory):
    """Message kind → the names of all values that went back, of a run with three clients and of a refusal."""
    import shutil

    from machines import CONFIG

    place = tmp_path_factory.mktemp("leaves") / "place"
    shutil.copytree(workplace, place, ignore=shutil.ignore_patterns("runs"))
    (place / "net.yaml").write_text(CONFIG)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        network = network_of()
        for worker in network.workers.values():

            def answer(kind, sent, worker=worker, plain=worker.answer):
                reply = plain(kind, sent)
                found.setdefault(kind, set()).update(named(kind, reply))
                return reply

            worker.answer = answer
        network.workers["part-000"].answer("train", {})  # before it has joined
        config = config_of(place, *WORDS, *(["privacy.secure=true"] if setting == "secure" else []))
        play_over(network, load(config), RunFolder(place / "runs" / "net"), [], lambda line: None)
    return found


def test_no_value_leaves_that_is_not_in_the_list(recorded):
    assert {"join", "sums", "scores", "train"} <= recorded.keys()
    assert {kind: odd for kind, names in recorded.items() if (odd := unlisted(kind, names))} == {}


def test_all_that_a_server_sees_is_sent_and_nothing_else(recorded, setting):
    everything = set().union(*recorded.values())
    seen = {one.field for one in LEAVES if getattr(one, setting) not in ("nobody", "sum")}
    if setting == "plain":
        # Sent with a memory budget, of a language model, and where activations are kept, alone.
        seen -= {f"update.metrics.{name}" for name in ("process_bytes", "widest_labels", "passes_below")}
    assert everything == seen
    assert {f"facts.{name}" for name in ClientInfo.model_fields} <= seen


PRIVATE = [
    "method={name: fim-hla, scores: clients, refresh: 1, score_samples: 6}",
    *("privacy.secure=true", "privacy.epsilon=8", "train.sampling=poisson", "train.rounds=2", "train.loss=auto"),
    *("model.head=solved", "model.train_head=false"),
]


def test_a_private_run_is_in_its_ledger_and_no_client_states_anything_of_its_data(place, monkeypatch):
    """Over the messages of a network; the noise alone differs from run to run."""
    from machines import CONFIG

    (place / "net.yaml").write_text(CONFIG)
    network, stated, found = network_of(), [], {}
    for worker in network.workers.values():

        def answer(kind, sent, plain=worker.answer):
            reply = plain(kind, sent)
            found.setdefault(kind, set()).update(named(kind, reply))
            if "facts" in reply:
                stated.append(json.loads(reply["facts"]))
            return reply

        worker.answer = answer
    folder = RunFolder(place / "runs" / "net")
    summary = play_over(network, load(config_of(place, *PRIVATE)), folder, [], lambda line: None)
    assert {one["name"]: one["times"] for one in summary.privacy["releases"]} == {
        "head statistics": 1,
        "Fisher scores": 2,
        "rounds": 2,
    }
    assert 7.9 < summary.privacy["epsilon"] <= 8.0 and summary.rounds == 2
    assert not any(flag.startswith("the secure sum failed") for flag in summary.flags)
    nothing = {key: stated[0][key] for key in ("samples", "classes", "widest", "batches", "busy")}
    assert (nothing["samples"], nothing["classes"], nothing["busy"]) == (1, [], 0.0)
    assert all({key: one[key] for key in nothing} == nothing for one in stated)
    assert not {name for names in found.values() for name in names} & {
        "update.tensors",
        "sums.counts",
        "scores.squares",
    }
    for record in folder.rounds():
        assert all((one.samples, dict(one.metrics)) == (1, {}) for one in record.report.clients)
        assert record.report.clients and not record.report.rejections


def test_all_metrics_are_listed():
    assert {f"update.metrics.{name}" for name in METRICS} <= {one.field for one in LEAVES}


def test_a_value_that_nobody_listed_is_found():
    assert unlisted("train", {"update.tensors", "update.hostname", "error"}) == ["update.hostname"]


def test_under_secure_sums_nothing_of_the_work_of_one_client_is_seen():
    alone = {one.field for one in LEAVES if one.secure == "server"}
    assert not any(name.startswith(("sums", "scores", "update")) for name in alone)


def test_the_page_has_the_list():
    text = PAGE.read_text(encoding="utf-8")
    assert page_table() in text, "replace its table by what fedhello.network.leaves.page_table() returns"
