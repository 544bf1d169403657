"""Case 78: no sample can be computed from a client's head statistics: its owner withholds those of few samples."""

import logging

import pytest
import safetensors.torch
import torch
from hostile import client_of, told_at

from fedhello.model.evaluation import pooled_features
from fedhello.model.head import family
from fedhello.model.statistics import UNIT, Moments, add_up, as_received, check_sums, head_sums, unpacked


@pytest.fixture(autouse=True)
def here(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.fixture
def asked(place):
    """Return what a client with some texts per class sends of head statistics, and its samples in the sums' units."""

    def ask(fruit, metal, least=1, moments="full", secure=False, **consent):
        words = ["north", "river", "old", "paper", "seven", "moon", "glass", "early", "stone", "wide", "garden"]
        texts = [f"{words[i % 11]} {words[i // 11]} {i}" for i in range(fruit + metal)]
        rows = [f"{text},{'fruit' if i < fruit else 'metal'}" for i, text in enumerate(texts)]
        (place / "mine.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        worker, ready = client_of("mine.csv", **consent)
        joined = told_at(place, model={"least": least, "moments": moments}, privacy={"secure": secure})
        assert "facts" in worker.answer("join", joined)
        reply = worker.answer("sums", {"client": 0, "run": "r"})
        client = ready.client
        h = pooled_features(client.model, client.data)
        x = (h.double() / (h.shape[1] ** 0.5 * UNIT)).round()
        return as_received(safetensors.torch.load(reply["sums"])), x, client

    return ask


def spread_of(sums):
    """Return what moments tell beyond class sums, Σ_c Σ (x − μ_c)(x − μ_c)ᵀ: its rank is n − C."""
    d, present = sums.features.shape[1], sums.counts > 0
    centres = sums.features[present].double() / sums.counts[present].double().sqrt().unsqueeze(1)
    return unpacked(sums.moments, d) - centres.T @ centres


def pair_in(sums):
    """Return the two samples of one class, computed from their sums: S/2 ± the only direction in which they spread."""
    values, vectors = torch.linalg.eigh(spread_of(sums))
    half, way = sums.features.double().sum(dim=0) / 2, (values[-1] / 2).sqrt() * vectors[:, -1]
    return torch.stack([half + way, half - way])


def is_read(x, found):
    """Whether each sample is among the found ones."""
    return bool((torch.cdist(x, found.round()) == 0).any(dim=1).all())


def test_a_class_of_one_sample_does_not_leave_whatever_the_server_asks_for(asked, caplog):
    with caplog.at_level(logging.WARNING, logger="fedhello"):
        sums, x, _ = asked(1, 40)
    assert sums.counts.tolist() == [0, 40]
    assert not sums.features[0].any()
    assert "without 1 of 2 classes, of fewer than 2 samples (least_per_class of the consent)" in caplog.messages[0]
    # The moments are those of the other class alone, so that nothing is left after it is taken out.
    others = x[1:]
    assert torch.equal(unpacked(sums.moments, x.shape[1]), others.T @ others)
    sums, x, _ = asked(1, 40, least_per_class=1)
    assert torch.equal(sums.features[0].double(), x[0]), "this is what the key is for"


def test_two_samples_cannot_be_computed_from_their_sum_and_their_moments(asked, caplog):
    sums, x, _ = asked(2, 0, least_for_moments=0)
    assert is_read(x, pair_in(sums)), "this is what the key is for"
    with caplog.at_level(logging.WARNING, logger="fedhello"):
        sums, x, _ = asked(2, 0)
    assert torch.equal(sums.features[0].double(), x.sum(dim=0))
    assert "the trace of their second moments alone, since these would tell single ones of 2 samples" in caplog.text
    assert not is_read(x, pair_in(sums))


@pytest.mark.parametrize("moments", ["full", "diagonal", {"sketch": 5}], ids=str)
def test_up_to_as_many_samples_as_features_all_directions_look_alike(asked, moments):
    """What leaves depends on the samples by their class sums and one number alone."""
    width = 5 if isinstance(moments, dict) else 16
    below, x, client = asked(width // 2, width - width // 2, moments=moments)
    assert x.shape[1] == 16
    rows = [part.sum(dim=0) / len(part) ** 0.5 for part in x.split(below.counts.tolist())]
    centres, kind = torch.stack(rows), client.statistics.moments
    t = (x.square().sum() - centres.square().sum()) / 16
    if kind.kind == "sketch":
        y = (centres @ kind.projection(16).T).round()
        found, expected = unpacked(below.moments[:-1], 5), y.T @ y + t * torch.eye(5)
    elif kind.kind == "full":
        found, expected = unpacked(below.moments, 16), centres.T @ centres + t * torch.eye(16)
    else:
        found, expected = below.moments.double(), centres.square().sum(dim=0) + t
    assert torch.allclose(found, expected, rtol=0, atol=1)
    above, x, client = asked(width // 2 + 1, width - width // 2, moments=moments)
    whole = head_sums(x * UNIT * 4, torch.from_numpy(client.data.labels), 2, type(client.statistics)(kind))
    assert torch.equal(above.moments, whole.moments)


def test_two_requests_do_not_differ_by_the_moments_of_few_samples(asked):
    """A server that asks again with another ``model.least`` gets class sums anew, and no moments of one class."""
    first, x, _ = asked(2, 40, least=2)
    again, _, _ = asked(2, 40, least=3)
    assert (first.counts - again.counts).tolist() == [2, 0]
    difference = unpacked(first.moments - again.moments, 16) - torch.outer(*[first.features[0].double()] * 2) / 2
    way = torch.linalg.eigh(difference)
    half, size = first.features[0].double() / 2, (way.eigenvalues[-1].clamp(min=0) / 2).sqrt()
    assert not is_read(
        x[:2], torch.stack([half + size * way.eigenvectors[:, -1], half - size * way.eigenvectors[:, -1]])
    )


def test_a_correct_head_is_solved_from_what_came(asked):
    """The sums stay possible for their samples, and the head that they lead to tells the classes apart."""
    parts = []
    for fruit, metal in ((1, 6), (5, 4), (30, 30)):
        sums, x, _ = asked(fruit, metal)
        check_sums(sums, len(x), classes=(0, 1))
        spread = torch.linalg.eigvalsh(spread_of(sums))
        assert float(spread.min()) > -16, "rounding alone is below zero"
        trace = float(unpacked(sums.moments, 16).trace())
        assert trace == pytest.approx(float(x[-int(sums.counts.sum()) :].square().sum()), rel=1e-5)
        parts.append(sums)
    total = add_up(parts, Moments())
    assert total.counts.tolist() == [35, 40]
    within = family(total, Moments(), "lda").values
    assert float(within.min()) > 0


def test_under_secure_sums_nothing_is_withheld(place):
    worker, ready = client_of(least_per_class=5)
    assert "facts" in worker.answer("join", told_at(place, privacy={"secure": True}))
    assert (ready.client.statistics.own_least, ready.client.statistics.enough) == (1, None)
