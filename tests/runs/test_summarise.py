"""A run in numbers: from rounds made by hand to values worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from handmade import SETTINGS, begun, lost, played, score, session, trained

from fedhello.methods import METHODS
from fedhello.model.head import HeadSettings
from fedhello.runs.heads import HeadChange
from fedhello.runs.summarise import summarise, taken_lines, versions
from fedhello.runs.summary import SearchSummary, SelectionSummary
from fedhello.types import Budget


def summed(attempts, start=None, status="finished", **changes):
    return summarise(session(**changes), start or begun(), attempts, wall_seconds=9.0, status=status)


def test_accuracies_are_those_of_the_test_set_and_validation_only_chooses():
    tests, validations = [0.1, 0.2, 0.3, 0.4, 0.5, 0.9, 0.6], [0.1, 0.8, 0.2, 0.8, 0.3, 0.3, 0.3]
    found = summed(
        [played(t, test=a, validation=v) for t, (a, v) in enumerate(zip(tests, validations, strict=True))],
        settings=replace(SETTINGS, rounds=7),
    )
    assert (found.start, found.final, found.rounds) == (0.25, 0.6, 7)
    assert found.mean_last_5 == pytest.approx((0.3 + 0.4 + 0.5 + 0.9 + 0.6) / 5)
    assert (found.best_on_validation, found.best_round) == (0.2, 1)  # of equal ones the first
    assert (found.start_scores, found.final_scores) == (score(0.25), score(0.6))


def test_bytes_are_those_of_every_attempt_and_all_else_of_committed_rounds():
    attempts = [
        played(0, [trained(0), trained(1, 1)], score_bytes_up=7, score_bytes_down=11, flags=("odd", "even")),
        played(
            1, [trained(2, 1, up=1000)], failed="too few", rejections=(lost(0, 1, up=40),), flags=("of no account",)
        ),
        played(1, [trained(0, samples=30, seconds=1.5)], rejections=(lost(2, 1), lost(1, 1, "failed")), flags=("odd",)),
    ]
    head, later = HeadChange(3, 60, 5000, 1), HeadChange(2, 60, 600, 2)
    attempts[2] = replace(attempts[2], head=later)
    found = summed(attempts, begun(head=head))
    assert found.bytes_up == 5000 + 600 + (100 + 100 + 7) + (1000 + 40) + 100
    assert found.bytes_down == 1 + 2 + (300 + 300 + 11) + (300 + 300) + (300 + 300 + 300)
    assert found.rejections == {"late": 2, "failed": 1}
    assert (found.rounds, found.failed_attempts, found.flags) == (2, 1, ("odd", "even"))
    assert (found.samples, found.train_seconds, found.samples_per_second) == (50, 2.5, 20.0)
    assert (found.evaluation_seconds, found.wall_seconds) == (0.5, 9.0)
    assert found.head.changes == (head, later)
    assert found.notes[0] == "said before"
    assert [note.split(":")[0] for note in found.notes[1:]] == ["head", "head after round 2"]


def test_a_tiers_peaks_are_the_largest_and_its_seconds_and_bytes_are_means_per_client_and_round():
    attempts = [
        played(0, [trained(0, 0, (2,)), trained(1, 1, (0, 1), peak_bytes=500, saved_bytes=90)], over_budget=(1,)),
        played(1, [trained(2, 1, (1, 2), up=300, seconds=1.5, peak_bytes=400, process_bytes=800)]),
        played(2, [trained(2, 1, (0,), up=10**6)], failed="too few", over_budget=(2,)),
    ]
    first, second = summed(attempts).tiers
    assert (first.budget, first.clients, first.participations) == ({"blocks": 1}, 1, 1)
    assert (second.budget, second.clients, second.participations) == ({"blocks": 3}, 2, 2)
    assert (first.blocks_trained, second.blocks_trained) == ((0, 0, 1), (1, 2, 1))
    assert (second.measured_peak_bytes, second.saved_bytes, second.measured_process_bytes) == (500, 90, 800)
    assert (second.seconds, second.bytes_up, second.bytes_down, second.over_budget) == (1.0, 200, 300, 1)
    assert (first.measured_peak_bytes, first.predicted_peak_bytes, first.over_budget) == (None, None, 0)


def test_a_client_over_its_budget_in_any_round_is_named_with_what_it_took():
    federation = replace(session().federation, tiers=(Budget(memory=45_000_000), Budget(memory=10**9)))
    peaks = [{"peak_bytes": 72e6}, {"peak_bytes": 30e6, "process_bytes": 60e6}, {"peak_bytes": 44e6}]
    attempts = [
        played(0, [trained(0, **peaks[2])]),
        played(1, [trained(0, **peaks[1])], over_budget=(0,)),
        played(2, [trained(0, **peaks[0])], over_budget=(0,), failed="too few"),
        played(2, [trained(0, **peaks[0])], over_budget=(0,)),
        played(3, rejections=(lost(1, 3, "over budget"),), over_budget=(1,)),
    ]
    found = summed(attempts, federation=federation)
    assert found.notes[-1] == (
        "2 clients were over the memory budget: client 0 (72 MB of 45 MB, 3 times, first in round 1), client 1 (more "
        "than it had of 1 GB, in round 3); each was planned smaller from then on"
    )
    assert [tier.over_budget for tier in found.tiers] == [2, 1]  # of committed rounds
    assert summed(attempts[:1], federation=federation).notes == ("said before",)


def test_without_a_committed_round_nothing_is_made_up():
    found = summed([played(0, failed="too few", rejections=(lost(0),))], status="failed")
    assert (found.status, found.rounds, found.failed_attempts, found.bytes_down) == ("failed", 0, 1, 300)
    of_rounds = ("final", "final_scores", "mean_last_5", "best_on_validation", "best_round", "samples_per_second")
    assert [getattr(found, key) for key in of_rounds] == [None] * len(of_rounds)
    assert found.tiers[0].seconds is found.tiers[0].bytes_up is None


def test_a_round_that_was_once_the_last_is_none_of_the_scored_of_a_longer_run():
    attempts = [played(t, test=a, validation=a) for t, a in enumerate([None, 0.2, 0.9, 0.4, None, 0.6])]
    found = summed(attempts, settings=replace(SETTINGS, rounds=6, evaluate_every=2))
    assert found.mean_last_5 == pytest.approx((0.2 + 0.4 + 0.6) / 3)
    assert (found.best_on_validation, found.best_round) == (0.6, 5)


@pytest.mark.parametrize(
    ("steps", "expected", "said"),
    [
        ((None, None), None, None),
        ((0.5, 1.0), SearchSummary(rounds=2, taken=2, bytes_up_in_vain=0), "took a step in 2 of 2 rounds"),
        ((0.5, 0.0), SearchSummary(rounds=2, taken=1, bytes_up_in_vain=100), "100 B that clients sent were not used"),
        ((0.0, 0.0), SearchSummary(rounds=2, taken=0, bytes_up_in_vain=200), "head-only costs one exchange of sums"),
    ],
)
def test_a_server_that_searches_says_what_was_sent_in_vain(steps, expected, said):
    # Where nobody took part, nothing was searched.
    found = summed([*(played(t, [trained(0)], step=step) for t, step in enumerate(steps)), played(2, step=0.0)])
    assert found.search == expected
    if said is None:
        assert taken_lines(found.search, None) == []
    else:
        assert said in found.notes[-1]


def test_the_model_that_is_handed_back_is_named():
    found = summed([played(0, selected=1), played(1, selected=1)])
    assert found.selection == SelectionSummary(round=1, rounds=2)
    assert found.notes[-1].startswith("the adapter is that after round 1 of 2: no later one is surely better")
    assert taken_lines(None, SelectionSummary(round=0, rounds=2))[0].startswith("the adapter is that before training")
    assert summed([played(0)]).selection is None


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({}, "test accuracy"),
        ({"head": HeadSettings("local")}, "test accuracy of personal heads"),
        ({"row": METHODS["local-only"]}, "test accuracy, mean over models"),
        (
            {"model": SimpleNamespace(source=SimpleNamespace(base_name="m"), kind="causal-lm", pooling="native")},
            "test token accuracy",
        ),
    ],
)
def test_the_summary_says_what_its_accuracies_are(changes, metric):
    assert summed([played(0)], **changes).metric == metric


def test_the_versions_are_those_that_a_result_depends_on():
    found = versions()
    assert found.keys() == {"python", "fedhello", "torch", "transformers", "peft", "numpy"}
    assert summed([]).versions == found
