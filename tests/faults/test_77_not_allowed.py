"""Case 77: what the owner has not allowed is refused by a code, and the server's user is told."""

import shutil

import pytest
from hostile import client_of, told_at, work_for
from machines import CONFIG

from fedhello.errors import UpdateError
from fedhello.network.consent import Consent
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.network.registry import read_client_info
from fedhello.network.server import play_over
from fedhello.network.worker import Worker
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import load
from network import Network, config_of


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


def test_statistics_and_scores_leave_only_if_they_may(place):
    worker, ready = client_of(statistics=False, scores=False)
    assert "facts" in worker.answer("join", told_at(place))
    work = work_for(ready.client)
    assert worker.answer("sums", {"client": 0, "run": "r"}) == {"error": "not allowed"}
    assert worker.answer("scores", work | {"samples": 4, "batch_size": 2}) == {"error": "not allowed"}
    assert "update" in worker.answer("train", work)


@pytest.mark.parametrize(
    ("consent", "model", "sections"),
    [
        ({"tasks": ["images"]}, "tiny", {}),
        ({"models": ["embedded:*"]}, None, {"model": {"name": "someone/model"}}),
        ({}, None, {"model": {"name": "someone/model"}}),
        ({"models": []}, None, {"model": {"name": "embedded:minilm"}}),
        ({"secure": True}, "tiny", {}),
        ({"epochs": 2}, "tiny", {"train": {"epochs": 3}}),
    ],
)
def test_a_run_that_the_owner_does_not_allow_is_not_joined_and_that_is_said(place, consent, model, sections):
    worker, _ = client_of(model=model, **consent)
    reply = worker.answer("join", told_at(place, **sections))
    assert reply == {"error": "not allowed"}
    with pytest.raises(UpdateError, match="its owner does not allow what was asked"):
        read_client_info(reply, 2)


def test_a_model_that_is_here_may_be_named_and_no_newer_one_is_downloaded(place, monkeypatch):
    commit, repository = "01234567" * 5, place / "hub" / "models--some--model"
    shutil.copytree(place / "tiny", repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(place / "hub"))
    named = told_at(place, model={"name": "some/model"})
    worker, ready = client_of(model=None)
    assert "facts" in worker.answer("join", named)
    assert ready.client.model.source.revision == commit
    (repository / "snapshots" / commit / "model.safetensors").unlink()
    worker, _ = client_of(model=None)
    assert worker.answer("join", named) == {"error": "not allowed"}
    assert "To let it be downloaded, start the client with --models some/model" in str(worker.failure)


def test_a_run_goes_on_without_the_statistics_of_one_who_keeps_them(place):
    (place / "net.yaml").write_text(CONFIG)
    config, network, notes = config_of(place, "model.head=solved"), Network(), []
    for k in range(3):
        options = ClientOptions(
            f"client-{k}", "texts.csv", model="tiny", consent=Consent(budget={"blocks": 3}, statistics=k != 1)
        )
        prepare = lambda raw, labels, options=options: prepare_client(options, raw, labels)  # noqa: E731
        network.connect(options.name, Worker(prepare, watched=False, consent=options.consent))
    summary = play_over(network, load(config), RunFolder(place / "runs" / "net"), [], notes.append)
    assert summary.status == "finished"
    assert any("without client 1" in note and "its owner does not allow" in note for note in notes), notes
