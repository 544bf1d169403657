from collections import Counter

import pytest

import fedhello as fh
from fedhello.algorithm import sample_clients
from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.model.private_sums import PrivatePlan, PrivateStatistics
from fedhello.session import ClientEntry
from fedhello.setup import private
from fedhello.state import Release

REFUSED = {
    "method.name=server-only": "under method.name=server-only no client takes part",
    "model.head=prototypes": "the head must be solved from sums without training; model.head is prototypes",
    "model.train_head=true": "the head must be solved from sums without training",
    "model.refresh=2": "model.refresh asks clients for sums again",
    "clients.tiers=[{share: 1, seconds: 3}]": "a budget in seconds is compared with the number of a client's samples",
    "run.engine=flower": "on other machines what clients send must be masked, too",
    "privacy.delta=0.05": "privacy.delta=0.05 allows to publish one client of 20 in the clear",
}

DP = ("privacy.epsilon", "train.sampling")

REFUSED_IN_TRAINING = {
    "method.name=hetlora clients.tiers=[{share: 1, rank: 2}]": "method.name=hetlora needs more than a mean",
    "train.sampling=fixed": "noise is counted for clients that are drawn independently. Set train.sampling=poisson",
    "train.loss=restricted": "train.loss=restricted leaves out clients by what they have",
    "defence.clip=1.0": "defence.rule=mean, defence.screen and defence.clip look at single updates",
    "train.server.name=adam": "train.server.name=adam steps where somebody trained",
    "method.name=rolora clients.tiers=[{share: 1, rank: 2}]": "method.name=rolora decides in each round",
    "privacy.epsilon=300": "noise of rounds is computed for up to 100",
    "train.scaffold=true": "train.scaffold keeps what each client did",
    "privacy.mechanism=banded": "with privacy.mechanism=banded clients take turns. Set train.sampling=fixed",
    "privacy.band=3": "privacy.band is for privacy.mechanism=banded",
    "run.checkpoint_every=2": "the ledger is saved with every checkpoint",
}


REFUSED_ON_SAMPLES = {
    "run.engine=flower": "on other machines what clients send must be masked, too",
    "privacy.mechanism=banded": "privacy.mechanism=banded is for rounds that protect whole clients",
    "train.loss=adjusted": "train.loss=adjusted counts the labels of a client's other samples",
    "train.autocast=bfloat16": "train.autocast=bfloat16 rounds a sample's gradient",
    "train.distillation=0.5": "train.distillation is no loss of single samples",
    "model.dtype=bfloat16": "weights of less than 32 bits round a sample's gradient",
    "model.quantisation=8bit": "weights of less than 32 bits round a sample's gradient",
    "method.name=rgd-hla model.lora.dora=true": "DoRA's magnitudes have no gradients of single samples",
    "method.scores=clients": "method.scores=clients has scores of whole clients",
    "method.weighting=batches": "method.weighting=batches needs how many batches a client has",
    "train.scaffold=true": "train.scaffold keeps what each client did",
    "train.loss=restricted": "train.loss=restricted leaves out clients by what they have",
}

GOES_ON_SAMPLES = ("train.sampling=fixed", "train.sampling=poisson", "train.server.name=adam", "defence.rule=median")


@pytest.mark.parametrize("word", REFUSED)
def test_what_would_leave_outside_the_ledger_is_refused_in_one_sentence(word):
    words = ["privacy.epsilon=4", "method.name=head-only", word]
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert str(caught.value).startswith(f"expected privacy.epsilon=null, since {REFUSED[word]}")
    load_config(None, words[1:])


REFUSED_IN_BANDS = {
    "train.clients_per_round=11": "with privacy.mechanism=banded a client is in every second round at most, and 11",
    "privacy.band=5": "privacy.band=5 asks for 5 rounds with other clients in each, of which there are enough for 4",
    "train.over_selection=1.2": "train.over_selection invites clients more often",
}


@pytest.mark.parametrize("word", REFUSED_IN_BANDS)
def test_clients_that_cannot_take_turns_are_refused_in_one_sentence(word):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["privacy.epsilon=4", "privacy.mechanism=banded", word])
    assert str(caught.value).startswith(f"expected privacy.epsilon=null, since {REFUSED_IN_BANDS[word]}")


@pytest.mark.parametrize("word", REFUSED_IN_TRAINING)
def test_what_training_would_tell_besides_is_refused_in_one_sentence(word):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["privacy.epsilon=4", "train.sampling=poisson", *word.split(" ", 1)])
    assert str(caught.value).startswith(f"expected privacy.epsilon=null, since {REFUSED_IN_TRAINING[word]}")


@pytest.mark.parametrize("word", REFUSED_ON_SAMPLES)
def test_what_steps_on_samples_do_not_count_is_refused_in_one_sentence(word):
    words = ["privacy.epsilon=4", "privacy.unit=sample", *word.split(" ")]
    with pytest.raises(ConfigError) as caught:
        load_config(None, words)
    assert str(caught.value).startswith(f"expected privacy.epsilon=null, since {REFUSED_ON_SAMPLES[word]}")


@pytest.mark.parametrize("word", GOES_ON_SAMPLES)
def test_what_whole_clients_forbid_goes_with_steps_on_samples(word):
    """The noise is added on each client, so what the server makes of single updates costs nothing more."""
    load_config(None, ["privacy.epsilon=4", "privacy.unit=sample", word])


@pytest.mark.usefixtures("place")
def test_the_most_rounds_of_a_client_are_those_that_it_is_drawn_for():
    federation = fh.prepare("tiny.yaml", {"train.clients_per_round": 2}).federation
    times = Counter(k.id for t in range(6) for k in sample_clients(federation, t))
    assert private.most_rounds(federation, 6) == max(times.values()) < 6


@pytest.mark.usefixtures("place")
def test_budgets_in_bytes_go_by_what_any_client_could_have():
    """One tier's predicted costs are the same whatever its clients' data, and those of the longest text."""
    words = {"method.name": "gd-hla", "privacy.epsilon": 4, "train.sampling": "poisson"}
    words |= {"clients.tiers": [{"share": 1, "memory": "1GB"}]}

    def saved(costs):
        return costs.saved["keep", "trained"]

    plain, private = (
        fh.prepare("tiny.yaml", {k: v for k, v in words.items() if not (leave_out and k in DP)}).federation.costs[0]
        for leave_out in (True, False)
    )
    shorter = fh.prepare("tiny.yaml", words | {"data.max_length": 8}).federation.costs[0]
    assert saved(private) > 2 * saved(plain)
    assert saved(shorter) < saved(private)


def test_clients_are_listed_without_what_is_theirs():
    (entry,) = private.anonymous([ClientEntry(3, 1, 70, {"fruit": 70})])
    assert entry == ClientEntry(3, 1, 0, ())


def test_a_note_says_that_few_clients_are_few():
    plan = PrivatePlan(8.0, 1e-5, Release("head statistics", 0.6), PrivateStatistics())
    assert len(list(private.private_notes(plan, 100, 1))) == 1
    assert "20 clients are few" in list(private.private_notes(plan, 20, 1))[1]


@pytest.mark.usefixtures("place")
def test_without_the_package_a_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(private, "PACKAGE", "no_such_package_for_accounting")
    with pytest.raises(fh.MissingExtraError, match=r"pip install 'fedhello\[privacy\]'"):
        fh.prepare("tiny.yaml", {"method.name": "head-only", "privacy.epsilon": 4})


@pytest.mark.usefixtures("place")
def test_noise_is_added_to_a_secure_sum_as_well(monkeypatch):
    """Without noise the head from masked contributions is that from plain ones, bit for bit."""
    from fedhello.model import private_sums
    from fedhello.runs.loop import start

    monkeypatch.setattr(private_sums, "gaussian", lambda shape, deviation: 0.0)
    words = {"method.name": "head-only", "privacy.epsilon": 4, "train.clients_per_round": 3}
    plain, masked = (
        start(fh.prepare("tiny.yaml", words | {"privacy.secure": secure})).state for secure in (False, True)
    )
    assert all(plain.head_sums[name].equal(masked.head_sums[name]) for name in plain.head_sums)
    assert plain.releases == masked.releases
