"""What a configuration with privacy.secure becomes, and what it is refused with."""

import json

import pytest

import fedhello as fh
from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.setup import masking

REFUSED = {
    "method.name=flexlora": "method.name=flexlora needs the products of the clients' factors",
    "method.name=hetlora": "method.name=hetlora needs each client's update by itself",
    "method.name=centralised": "under method.name=centralised no client sends anything",
    "method.name=server-only": "under method.name=server-only no client sends anything",
    "defence.rule=median": "defence.rule=median, defence.screen and defence.clip look at single updates",
    "defence.clip=2.0": "defence.rule=mean, defence.screen and defence.clip look at single updates",
    "train.scaffold=true": "train.scaffold keeps what each client did",
    "train.server={name: adam}": "train.server.name=adam looks at single updates",
    "model.moments=means": "model.moments=means needs each client's class means",
    "privacy.cohorts=7": "privacy.cohorts=7 is more than the 5 clients of a sum. Lower it",
    "train.clients_per_round=2": "of 2 clients in a round, the sum tells too much",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_looks_at_single_clients_is_refused_in_one_sentence(word):
    ranks = ["clients.tiers=[{share: 1, rank: 4}]"] if "lora" in word else []
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["privacy.secure=true", word, *ranks])
    assert str(caught.value).startswith(f"expected privacy.secure=false, since {REFUSED[word]}")
    load_config(None, [word, *ranks])


@pytest.mark.usefixtures("place")
def test_a_secure_run_is_the_plain_one_and_its_folder_tells_of_no_client():
    """Two runs of one configuration, one of them secure: scores agree, and no file has a client's loss or time."""
    words = {"train.clients_per_round": 4, "clients.tiers": [{"share": 1, "blocks": 3}]}
    plain = fh.run("tiny.yaml", words | {"run.name": "plain"})
    secure = fh.run("tiny.yaml", words | {"run.name": "secure", "privacy.secure": True})
    assert secure.summary.final == pytest.approx(plain.summary.final, abs=0.05)
    lines = [json.loads(line) for line in (secure.path / "rounds.jsonl").read_text().splitlines()]
    for line in lines:
        assert [client["metrics"] for client in line["clients"]] == [{}] * 4
    losses = [
        [json.loads(line)["train_loss"] for line in (run.path / "rounds.jsonl").read_text().splitlines()]
        for run in (plain, secure)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("cohorts", [None, 3])
def test_a_plan_states_the_upload_of_a_whole_vector_or_of_a_clients_own_blocks(cohorts):
    """What is sent lies below it, by less than half: beside a tiny model, shares take most of the room."""
    words = {
        "train.clients_per_round": 4, "privacy.secure": True, "privacy.cohorts": cohorts,
        "clients.tiers": [{"share": 3 / 4, "memory": "1GB"}, {"share": 1 / 4, "blocks": 1}],
    }  # fmt: skip
    session = fh.prepare("tiny.yaml", words)
    plan = fh.plan(session)
    stated = [tier.needs.upload_bytes for tier in plan.tiers]
    _, record = next(fh.rounds(session))
    assert (stated[0] == stated[1]) == (cohorts is None)
    for client in record.report.clients:
        assert stated[client.tier] / 2 < client.bytes_up <= stated[client.tier]
    said = "its own blocks instead of" if cohorts else "every client uploads"
    assert sum("privacy.cohorts" in note and said in note for note in plan.notes) == 1


@pytest.mark.usefixtures("place")
def test_without_the_packages_a_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(masking, "PACKAGES", ("no_such_package_for_masks",))
    words = {"train.clients_per_round": 4, "privacy.secure": True}
    with pytest.raises(fh.MissingExtraError, match=r"pip install 'fedhello\[privacy\]'"):
        fh.prepare("tiny.yaml", words)
