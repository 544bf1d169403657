import dataclasses

import numpy as np
import pytest
from big_runs import big_run

from fedhello.model.evaluation import Evaluation
from fedhello.report.run_facts import RunFacts
from fedhello.report.run_quality import axis_range, interval, learning_curve, most_alone, quality, quality_cards
from fedhello.runs.heads import HeadChange
from fedhello.runs.summary import HeadSummary


@pytest.fixture
def facts(tmp_path):
    found = RunFacts(big_run(tmp_path / "run", clients=4, rounds=3, a_round=2, classes=3, blocks=3))
    found.refresh()
    return found


def changed(facts, start, final, samples, **more):
    scores = {"start_scores": Evaluation(start, 1.0, samples), "final_scores": Evaluation(final, 1.0, samples, more)}
    facts.summary = facts.summary.but(start=start, final=final, **scores)
    return quality(facts).answer


def test_the_interval_is_wilsons():
    # 9 of 10: 0.596 … 0.982, as in Newcombe (1998)
    assert interval(0.9, 10) == (pytest.approx(0.5958, abs=1e-4), pytest.approx(0.9821, abs=1e-4))
    assert interval(1.0, 100)[1] == 1.0
    assert interval(1.0, 100)[0] == pytest.approx(0.963, abs=1e-3)


def test_an_axis_spans_what_chance_alone_makes_of_a_score_and_no_less_than_means_something():
    low, high = axis_range([0.5, 0.505], 400)
    assert low < interval(0.5, 400)[0] and high > interval(0.505, 400)[1]
    low, high = axis_range([0.5], 10**9)
    assert high - low >= 0.06
    assert axis_range([0.99], 50)[1] == 1.0


def test_a_difference_that_chance_explains_is_said_to_be_one(facts):
    assert "may differ by up to 9.6 points by chance" in changed(facts, 0.5, 0.52, 209)[0]
    assert "more than chance alone would explain" in changed(facts, 0.5, 0.52, 20_900)[0]
    assert changed(facts, 0.5, 0.5, 100)[0].endswith(
        "100 test samples right after 3 rounds: as many as before training."
    )


def test_head_only_is_named_where_it_was_measured_alone(facts):
    assert "compare runs head-only beside it" in " ".join(quality(facts).answer)
    facts.config = {"model": {"head": "solved"}}
    changes = (HeadChange(4, 280, 10, 10),)
    facts.summary = facts.summary.but(head=HeadSummary(policy="solved", changes=changes))
    answer = " ".join(quality(facts).answer)
    assert "is what head-only reaches: a head solved from the clients' sums once" in answer
    assert quality(facts).parts[2].rows[0][0] == "before training (head-only)"


def test_language_models_have_perplexity(facts):
    assert "Its perplexity is 12.5" in " ".join(changed(facts, 0.5, 0.6, 100, perplexity=12.5))


def test_the_curve_begins_before_training_and_marks_what_was_handed_back(facts):
    figure = learning_curve(facts)
    assert [row[0] for row in figure.table.rows] == [0, 1, 2, 3]
    facts.selected = 2
    assert any("datum.round === 2" in str(layer) for layer in learning_curve(facts).spec["layer"])


def test_a_run_without_a_scored_round_says_so(facts):
    facts.summary, facts.rounds = None, [dataclasses.replace(one, test=None) for one in facts.rounds]
    assert quality(facts).answer == ["Nothing has been scored yet."]


def test_a_run_that_ended_before_a_round_was_scored_says_so(facts):
    facts.summary = facts.summary.but(final_scores=None, final=None)
    facts.rounds = [dataclasses.replace(one, test=None) for one in facts.rounds]
    assert quality(facts).answer == ["It ended before a round was scored."]
    assert quality(facts).parts[0].rows[0][0] == "before training"


def test_a_client_alone_gets_no_class_right_that_it_has_no_sample_of(facts):
    assert most_alone(facts) is None, "the test set's classes are not known"
    known = {"accuracy": 0.5, "loss": 1.0}
    facts.plan = {"start": {"classes": {"a": 10, "b": 30, "c": 60}, "test": known, "validation": known}}
    facts.histogram = np.array([[5, 9, 0], [0, 0, 1], [7, 0, 0]]), ("a", "b", "c")
    assert most_alone(facts) == (0.6, 1, 3), "client 1, with the 60 of 100 test samples that are of class c"
    said = " ".join(changed(facts, 0.5, 0.7, 100))
    assert "No client alone could get more than 60.0% right" in said.replace(" %", "%")
    assert "No client alone" not in " ".join(changed(facts, 0.5, 0.6, 100)), "one could be as good"


def test_a_given_adapter_is_neither_head_only_nor_what_a_client_has_alone(facts):
    known = {"accuracy": 0.5, "loss": 1.0}
    facts.plan = {"start": {"classes": {"a": 10, "b": 90}, "test": known, "validation": known, "head": None}}
    facts.histogram = np.array([[5, 0], [0, 1]]), ("a", "b")
    facts.summary = facts.summary.but(head=HeadSummary(policy="solved", changes=(HeadChange(4, 280, 10, 10),)))
    facts.plan["start"]["head"] = {"clients": 4, "samples": 280, "bytes_up": 10, "bytes_down": 10}
    facts.config = {"model": {"head": "solved", "adapter": None}}
    assert "head-only reaches" in (said := " ".join(changed(facts, 0.5, 0.95, 100))) and "No client alone" in said
    assert [card.label for card in quality_cards(facts)][1:] == [
        "before training (head-only)",
        "any client alone, at most",
    ]
    facts.config = {"model": {"head": "solved", "adapter": "runs/a"}}
    said = " ".join(changed(facts, 0.5, 0.95, 100))
    assert "head-only" not in said and "No client alone" not in said
    assert "Before training is the given adapter (model.adapter)" in said
    assert [card.label for card in quality_cards(facts)][1:] == ["before training (the given adapter)"]
    assert quality(facts).parts[2].rows[0][0] == "before training (the given adapter)"


def test_own_heads_have_no_interval_since_they_share_their_test_samples(facts):
    facts.config = {"model": {"head": "local"}}
    said = changed(facts, 0.4, 0.5, 64)[0]
    assert said == (
        "It gets 50.0 % of the predictions of the clients' own heads, each on the test samples of its client's "
        "classes, right after 3 rounds; before training it was 40.0 %, a difference of +10.0 points."
    )
    assert "64" not in said and "interval" not in quality_cards(facts)[0].detail
    assert {tuple(row[2:4]) for row in quality(facts).parts[2].rows} == {(None, None)}
    curve = learning_curve(facts)
    assert {tuple(row[2:4]) for row in curve.table.rows} == {(None, None)} and "interval" not in curve.text
    assert "band" not in str(curve.spec)


def test_a_run_that_ends_on_an_unscored_round_says_which_one_was_scored(facts):
    facts.rounds[-1] = dataclasses.replace(facts.rounds[-1], test=None)
    facts.summary = facts.summary.but(final_scores=None)
    section = quality(facts)
    assert "right after round 2 of 3, the last that was scored" in section.answer[0]
    assert section.parts[2].rows[1][0] == "after the last scored round"
