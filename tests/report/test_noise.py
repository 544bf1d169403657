import math

import pytest

import fedhello as fh
from fedhello.privacy.banded import summed_noise
from fedhello.report.noise import noise_plans, noise_table, write_noise

pytest.importorskip("dp_accounting")
WORDS = {"method.name": "gd-hla", "privacy.epsilon": 8.0, "train.sampling": "poisson", "train.clients_per_round": 2}


@pytest.mark.usefixtures("place")
def test_fewer_numbers_get_less_noise_and_this_run_is_among_them():
    """Tiers of one and of three blocks: the last block trains on all clients, the one before it on half."""
    session = fh.prepare("tiny.yaml", WORDS | {"method.pattern": "inverted_triangle", "train.rounds": 2})
    ours, everything, B, two, one, head = noise_plans(session)
    sigma, q, K = session.private.rounds.release.noise, 0.5, 4
    n = ours.numbers // 2
    assert ours.what == "this run: B in blocks 1, 2, rank 4"
    assert ours.noise_over_clip == pytest.approx(sigma / q * math.sqrt(n / 2**2 + n / K**2))
    assert two.noise_over_clip == pytest.approx(sigma / q * math.sqrt(2 * n) / K)
    assert everything.noise_over_clip > B.noise_over_clip > two.noise_over_clip > one.noise_over_clip
    assert one.numbers * 4 == two.numbers and head.numbers == 2 * (16 + 1)
    plan = fh.plan(session)
    assert plan.to_dict()["noise"] == write_noise(plan.noise)
    assert "this run: B in blocks 1, 2, rank 4" in str(plan)
    assert noise_table(plan.noise).row_count == 6


@pytest.mark.usefixtures("place")
def test_noise_in_bands_counts_as_long_as_it_is_on_the_sum_of_rounds():
    words = WORDS | {"train.rounds": 4, "train.sampling": "fixed", "privacy.mechanism": "banded"}
    session = fh.prepare("tiny.yaml", words)
    B = noise_plans(session)[2]
    sigma = session.private.rounds.release.noise * summed_noise(2, 4)
    assert B.noise_over_clip == pytest.approx(sigma / 0.5 * math.sqrt(B.numbers) / 4)


@pytest.mark.usefixtures("place")
def test_where_samples_are_protected_it_is_the_noise_on_a_step_of_the_smallest_client():
    words = WORDS | {"privacy.unit": "sample", "train.sampling": "fixed", "method.pattern": "inverted_triangle"}
    plain = fh.prepare("tiny.yaml", {"method.name": "gd-hla"})
    smallest = min(entry.samples for entry in plain.roster)
    session = fh.prepare("tiny.yaml", words | {"train.batch_size": 4})
    ours, *_, one = noise_plans(session)
    assert session.private.steps.batch == min(4, smallest)
    sigma = session.private.steps.release.noise
    assert ours.noise_over_clip == pytest.approx(sigma * math.sqrt(ours.numbers) / min(4, smallest))
    assert one.numbers < ours.numbers and len(noise_plans(session)) == 5


@pytest.mark.usefixtures("place")
def test_without_privacy_or_training_there_is_no_such_table():
    for words in ({}, {"method.name": "head-only", "privacy.epsilon": 8.0}):
        assert noise_plans(fh.prepare("tiny.yaml", words)) == ()
