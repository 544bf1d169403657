"""Secure aggregation: the sum is right, whoever leaves when, and nothing else can be learnt."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedhello.errors import PrivacyError
from fedhello.privacy.masking import MaskedSum, Participant, Shares
from fedhello.privacy.parts import Layout, Part, threshold

PURPOSE = b"run/0/0"
LEAST = 3


def one_part(clients, size):
    clients = tuple(sorted(clients))
    return Layout(clients, size, LEAST, (Part(np.arange(size), clients, clients),))


def played(vectors, bits=32, leave=None, seen=None, layout=None):
    """Play the protocol; ``leave`` says before which step a client is gone; ``seen`` gets what the server receives.

    ``layout`` returns the parts, given the clients that are there to share; without one, there is one part.
    """
    leave = leave or {}
    order = ("advertise", "share", "mask", "unmask")

    def here(step):
        return [k for k in vectors if k not in leave or order.index(leave[k]) > order.index(step)]

    people = {k: Participant(k, PURPOSE, bits) for k in vectors}
    keys = {k: people[k].advertise() for k in here("advertise")}
    parts = one_part(keys, len(next(iter(vectors.values())))) if layout is None else layout(keys)
    sealed = {k: people[k].share(keys, parts) for k in here("share")}
    masked = {k: people[k].mask(vectors[k], received(sealed, k)) for k in here("mask")}
    shares = [people[k].unmask(masked) for k in here("unmask")]
    if seen is not None:
        seen |= {"masked": masked, "sealed": sealed, "shares": shares}
    return opened(masked, keys, sealed, shares, bits, parts)


def received(sealed, k):
    return {v: one.shares[k] for v, one in sealed.items() if v != k}


def opened(masked, keys, sealed, shares, bits=32, layout=None):
    one = MaskedSum(PURPOSE.decode(), bits, keys)
    one.layout, one.sealed = layout or one_part(keys, len(next(iter(masked.values())))), sealed
    for k, vector in masked.items():
        one.add(k, vector)
    return one.opened(shares)


def some_vectors(n, size=50, bits=32, seed=0):
    rng = np.random.default_rng(seed)
    return {3 * k + 1: rng.integers(0, 2**bits, size, dtype=f"u{bits // 8}") for k in range(n)}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("step", ["advertise", "share", "mask", "unmask"])
@pytest.mark.parametrize("n", [3, 5, 9])
def test_the_sum_is_that_of_those_who_stayed(n, step, bits):
    """Up to a third leave before any step: who leaves before masking is not in the sum, who leaves after it is."""
    vectors = some_vectors(n, bits=bits)
    gone = list(vectors)[: n - threshold(n)]
    counted = [k for k in vectors if k not in gone or step == "unmask"]
    expected = np.sum([vectors[k] for k in counted], axis=0, dtype=f"u{bits // 8}")
    assert np.array_equal(played(vectors, bits, dict.fromkeys(gone, step)), expected)


def test_a_third_in_all_may_leave_at_different_steps():
    vectors = some_vectors(9)
    a, b, c, *rest = vectors
    found = played(vectors, leave={a: "share", b: "mask", c: "unmask"})
    assert np.array_equal(found, np.sum([vectors[k] for k in (c, *rest)], axis=0, dtype="u4"))


def test_below_the_threshold_there_is_no_sum():
    vectors = some_vectors(6)
    with pytest.raises(PrivacyError, match="expected 4 clients to stay to the end"):
        played(vectors, leave=dict.fromkeys(list(vectors)[:3], "unmask"))
    with pytest.raises(PrivacyError, match="expected at least 4 of the clients"):
        played(vectors, leave=dict.fromkeys(list(vectors)[:3], "mask"))


def test_what_the_server_receives_is_uniform_whatever_the_vector():
    """χ² of the bytes of masked vectors of constant zeros; the test finds the zeros themselves."""
    seen = {}
    played({k: np.zeros(20_000, dtype="u4") for k in range(4)}, seen=seen)
    for masked in seen["masked"].values():
        assert stats.chisquare(np.bincount(masked.view("u1"), minlength=256)).pvalue > 1e-6
        for shift in (1, 2, 4):
            assert abs(np.corrcoef(masked[:-shift], masked[shift:])[0, 1]) < 0.04
    one, two, *_ = seen["masked"].values()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.04


def test_no_client_reveals_both_secrets_of_another_nor_answers_twice():
    seen = {}
    vectors = some_vectors(6)
    played(vectors, leave={next(iter(vectors)): "mask"}, seen=seen)
    for shares in seen["shares"]:
        assert not shares.own.keys() & shares.pairs.keys()
        assert set(shares.own) == set(list(vectors)[1:]) and set(shares.pairs) == {next(iter(vectors))}
    one = Participant(1, PURPOSE, 32)
    one.advertise()
    with pytest.raises(PrivacyError, match="expected each step of a secure sum once"):
        one.advertise()


def test_masks_are_new_each_time():
    first, second = {}, {}
    vectors = {k: np.zeros(8, dtype="u4") for k in range(3)}
    played(vectors, seen=first), played(vectors, seen=second)
    assert not np.array_equal(first["masked"][0], second["masked"][0])


def test_shares_that_were_changed_are_noticed():
    """By the receiver, whose cipher authenticates sender and receiver; by the server, whose secret fits no key."""
    people = {k: Participant(k, PURPOSE, 32) for k in range(3)}
    keys = {k: people[k].advertise() for k in people}
    sealed = {k: people[k].share(keys, one_part(keys, 4)) for k in people}
    vector = np.ones(4, dtype="u4")
    with pytest.raises(PrivacyError, match="that client 2 encrypted for client 0; found others"):
        people[0].mask(vector, {1: sealed[1].shares[0], 2: sealed[2].shares[1]})

    people = {k: Participant(k, PURPOSE, 32) for k in range(4)}
    keys = {k: people[k].advertise() for k in people}
    sealed = {k: people[k].share(keys, one_part(keys, 4)) for k in people}
    masked = {k: people[k].mask(vector, received(sealed, k)) for k in (0, 1, 2)}
    shares = [people[k].unmask(masked) for k in masked]
    assert np.array_equal(opened(masked, keys, sealed, shares), np.full(4, 3))
    for field in ("own", "pairs"):
        changed = {v: bytes(16) for v in getattr(shares[0], field)}
        with pytest.raises(PrivacyError, match=r"expected shares that make up the (seed|key) of client"):
            opened(masked, keys, sealed, [replace(shares[0], **{field: changed}), *shares[1:]])


def test_a_server_that_hands_out_other_keys_is_refused():
    people = {k: Participant(k, PURPOSE, 32) for k in range(3)}
    keys = {k: people[k].advertise() for k in people}
    with pytest.raises(PrivacyError, match="this one's own among them; found others"):
        people[0].share({**keys, 0: keys[1]}, one_part(keys, 4))

    people = {k: Participant(k, PURPOSE, 32) for k in range(3)}
    keys = {k: people[k].advertise() for k in people}
    weak = {**keys, 2: replace(keys[2], masks=bytes(32))}
    sealed = {k: people[k].share(keys if k == 2 else weak, one_part(keys, 4)) for k in people}
    with pytest.raises(PrivacyError, match="expected X25519 public keys"):
        people[1].mask(np.ones(4, dtype="u4"), received(sealed, 1))


def test_shares_of_one_client_are_not_counted_twice():
    vectors = some_vectors(3)
    people = {k: Participant(k, PURPOSE, 32) for k in vectors}
    keys = {k: people[k].advertise() for k in people}
    sealed = {k: people[k].share(keys, one_part(keys, 50)) for k in people}
    masked = {k: people[k].mask(vectors[k], received(sealed, k)) for k in people}
    one = next(iter(people.values())).unmask(masked)
    assert isinstance(one, Shares)
    with pytest.raises(PrivacyError, match="expected 3 clients to stay"):
        opened(masked, keys, sealed, [one] * 3)


HOLDERS = {"all": range(6), "four": (0, 1, 2, 3), "three": (0, 1, 5), "two": (2, 4)}
"""Which of six clients trained each of four parts."""


def four_parts(whole):
    """The layout of vectors of 4 × 5 numbers, and vectors with zeros where a client trained nothing."""
    positions = {name: np.arange(5 * i, 5 * i + 5) for i, name in enumerate(HOLDERS)}

    def layout(keys):
        parts = []
        for name, clients in HOLDERS.items():
            cohort = tuple(k for k in clients if k in keys)
            parts.append(Part(positions[name], cohort, () if len(cohort) < LEAST else tuple(keys) if whole else cohort))
        return Layout(tuple(keys), 20, LEAST, tuple(parts))

    vectors = {k: np.zeros(20, dtype="u4") for k in range(6)}
    for name, clients in HOLDERS.items():
        for k in clients:
            vectors[k][positions[name]] = 100 * k + np.arange(1, 6)
    return layout, vectors


@pytest.mark.parametrize("whole", [True, False])
def test_each_part_is_the_sum_of_those_who_sent_it_and_small_cohorts_are_left_out(whole):
    layout, vectors = four_parts(whole)
    seen = {}
    found = played(vectors, layout=layout, seen=seen)
    expected = np.sum(list(vectors.values()), axis=0, dtype="u4")
    assert np.array_equal(found[:15], expected[:15]) and not found[15:].any()
    own = {k: 5 * sum(k in clients for name, clients in HOLDERS.items() if name != "two") for k in range(6)}
    assert {k: len(masked) for k, masked in seen["masked"].items()} == (dict.fromkeys(range(6), 15) if whole else own)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("step", ["share", "mask", "unmask"])
def test_a_part_whose_cohort_shrinks_is_not_opened_and_the_others_are(whole, step):
    """One of three leaves: the part stays closed unless its vector had come; the server gets no share of its seeds."""
    layout, vectors = four_parts(whole)
    seen = {}
    found = played(vectors, layout=layout, leave={5: step}, seen=seen)
    counted = [k for k in vectors if k != 5 or step == "unmask"]
    expected = np.sum([vectors[k] for k in counted], axis=0, dtype="u4")
    expected[15:] = 0
    if step != "unmask":
        expected[10:15] = 0
        held = layout(dict.fromkeys(range(6))).seeds
        assert held == (0, 2, 3, 4)  # the first cannot fall below three while enough stay at all
        assert {len(shares.own[0]) for shares in seen["shares"]} == {2 * 16}  # of its three seeds
    assert np.array_equal(found, expected)


def test_a_server_that_tells_clients_different_plans_gets_nothing():
    people = {k: Participant(k, PURPOSE, 32) for k in range(3)}
    keys = {k: people[k].advertise() for k in people}
    sealed = {k: people[k].share(keys, one_part(keys, 4), b"others" if k == 2 else b"a plan") for k in people}
    with pytest.raises(PrivacyError, match="that client 2 encrypted for client 0; found others"):
        people[0].mask(np.ones(4, dtype="u4"), received(sealed, 0))
