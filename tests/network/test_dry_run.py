import json

import pytest
import safetensors.torch
from hostile import told_at, work_for

import fedhello as fh
from fedhello.network.consent import Consent
from fedhello.network.leaves import answers
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.worker import Worker


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """Nothing is connected to."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("it connects"))
    monkeypatch.setattr("fedhello.network.federation.take_part", lambda *_: pytest.fail("it takes part"))


def sizes(leaving):
    return {one["name"]: one["bytes"] for one in leaving}


def test_the_sizes_are_those_of_the_messages(place):
    """The worker's own replies, to a server with the same configuration, have these fields and bytes."""
    fields = told_at(place)
    consent = Consent(budget={"blocks": 2})
    found = fh.join(
        data="texts.csv", name="a", model="tiny", consent=consent, dry_run=True, config=json.loads(fields["config"])
    ).to_dict()["messages"]
    client = prepare_client(ClientOptions("a", "texts.csv", model="tiny", consent=consent), *map(json.loads, (
        fields["config"], fields["labels"])))  # fmt: skip
    worker = Worker(lambda raw, labels: client, watched=False)
    joined = worker.answer("join", fields)
    assert {one["name"] for one in found["join"]} == {"probe", *(f"facts.{n}" for n in json.loads(joined["facts"]))}
    assert sizes(found["join"])["probe"] == len(joined["probe"])
    sums = worker.answer("sums", {"client": 0, "run": "r"})["sums"]
    parts = {f"sums.{name}": value.nbytes for name, value in safetensors.torch.load(sums).items()}
    assert sizes(found["sums"]) == {"sums": len(sums), **parts}
    work = work_for(client, (1, 2))
    scores = worker.answer("scores", work | {"samples": 4, "batch_size": 2})
    assert sizes(found["scores"])["scores"] == len(scores["scores"])
    update = worker.answer("train", work)["update"]
    # The run's id has at most 32 characters, and metrics of language models and of kept activations count for all.
    assert 0 <= sizes(found["train"])["update"] - len(update) <= 130
    assert sum("lora_" in name for name in sizes(found["train"])) == 8
    listed = {one.field for kind in ("join", "sums", "scores", "train") for one in answers(kind)}
    shown = {one["name"] for leaving in found.values() for one in leaving}
    assert listed <= shown
    assert all(
        name.startswith("update.tensors.") for name in shown - listed - found.keys() - {"update", "(empty)", "error"}
    )


def test_under_secure_sums_the_sizes_of_masked_sums_are_open_and_that_is_said(place):
    raw = json.loads(told_at(place, privacy={"secure": True})["config"])
    found = fh.join(data="texts.csv", name="a", model="tiny", dry_run=True, config=raw).to_dict()
    assert sizes(found["messages"]["sums"])["sums"] is None
    assert any("the server sees those over several clients alone" in note for note in found["notes"])


def test_without_a_configuration_names_are_known_and_sizes_are_not(place, call):
    code, out, err = call(place, "client", "--dry-run", "--data", "texts.csv", "--no-scores", "--labels", "metal")
    assert (code, err) == (0, "")
    for part in ("labels: metal;", "Fisher scores: refused", "scores: refused, so nothing but a code",
                 "facts.samples: number of its samples = at most 40", "no text"):  # fmt: skip
        assert part in out
    code, out, _ = call(place, "client", "--dry-run", "--data", "texts.csv", "--json")
    found = json.loads(out)
    assert set(found["messages"]) == {"join", "sums", "scores", "train", "bye", "any that fails or is refused"}
    assert sizes(found["messages"]["train"])["update.tensors"] is None


def test_a_dry_run_of_data_that_do_not_serve_is_an_error_here(place, call):
    (place / "mine.csv").write_text("a,b\n1.5,2.5\n")
    code, _, err = call(place, "client", "--dry-run", "--data", "mine.csv")
    assert code == 2 and "expected a column of labels" in err
    code, _, err = call(place, "client", "--data", "texts.csv")
    assert code == 2 and "expected a server (--server HOST:PORT), or a dry run" in err
