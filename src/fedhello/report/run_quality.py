"""The first section of a run's page: how good is it?"""

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np

from fedhello.model.evaluation import Evaluation
from fedhello.report.charts import MOST_POINTS, axis, bars, lines, rounds_axis
from fedhello.report.figures import Card, Column, DataTable, Figure, Part, Section, Spec, percent
from fedhello.report.run_classes import classes
from fedhello.report.run_facts import RunFacts
from fedhello.runs.summarise import LAST

Z = 1.959964
"""Half the width of a 95 % interval in standard errors."""

NARROWEST = 0.06
"""The least range of an axis of accuracies: less is smaller than what tells models apart."""

HEAD_POLICIES = {"solved": "solved from the clients' sums", "prototypes": "made of the clients' class means"}


def interval(accuracy: float, samples: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy that was measured on some samples (Wilson).

    Example:
        >>> low, high = interval(0.5, 100)
        >>> round(low, 3), round(high, 3)
        (0.404, 0.596)
    """
    if samples < 1:
        return 0.0, 1.0
    a = Z * Z / samples
    centre = (accuracy + a / 2) / (1 + a)
    half = Z * sqrt(max(0.0, accuracy * (1 - accuracy)) / samples + a / (4 * samples)) / (1 + a)
    return max(0.0, centre - half), min(1.0, centre + half)


def axis_range(values: Sequence[float], samples: int) -> tuple[float, float]:
    """Return the range of an axis on which differences mean something: values, their intervals, and some room.

    Args:
        values: Accuracies; at least one.
        samples: Number of samples that they were measured on.
    """
    low = min(interval(value, samples)[0] for value in values)
    high = max(interval(value, samples)[1] for value in values)
    short = max(0.0, NARROWEST - (high - low)) / 2
    low, high = max(0.0, low - short - 0.01), min(1.0, high + short + 0.01)
    return round(low, 3), round(high, 3)


def quality_cards(facts: RunFacts) -> list[Card]:
    """Return the key figures on how good a run is."""
    final, start = _now(facts), facts.start_accuracy
    cards = []
    if final is not None:
        low, high = _interval(facts, final.accuracy, final.samples)
        detail = "mean over the clients' own heads"
        if low is not None and high is not None:
            detail = f"95 % interval {percent(low)} to {percent(high)}"
        cards.append(Card(facts.metric, percent(final.accuracy), detail))
    if start is not None:
        gain = "" if final is None else f"since then {points(final.accuracy - start)}"
        cards.append(Card(_start_name(facts), percent(start), gain))
    alone = most_alone(facts)
    if alone is not None and final is not None and alone[0] < final.accuracy:
        cards.append(Card("any client alone, at most", percent(alone[0]), "it lacks the other classes"))
    return cards


def quality(facts: RunFacts) -> Section:
    """Return the section."""
    parts: list[Part] = []
    if any(one.test for one in facts.rounds):
        parts += [learning_curve(facts), _losses(facts)]
    parts.append(_scores(facts))
    parts += [*_domains(facts), *classes(facts.confusion)]
    return Section("quality", "How good is it?", list(_answer(facts)), parts)


def points(difference: float) -> str:
    """Write a difference of accuracies for people, with a true minus sign.

    Example:
        >>> points(-0.0123), points(0.0)
        ('−1.2 points', '±0.0 points')
    """
    value = round(100 * difference, 1)
    return f"{value:+.1f} points".replace("-", "−") if value else "±0.0 points"


def _now(facts: RunFacts) -> Evaluation | None:
    """Return the last test scores: of the returned model, or of the last scored round."""
    if facts.summary is not None and facts.summary.final_scores is not None:
        return facts.summary.final_scores
    return next((one.test for one in reversed(facts.rounds) if one.test is not None), None)


def _interval(facts: RunFacts, accuracy: float, samples: int) -> tuple[float, float] | tuple[None, None]:
    """Return the interval of a score; none if clients keep their own heads.

    ``samples`` then counts each test sample once per head, and what heads of one backbone get right is not independent.
    """
    return (None, None) if facts.is_personal else interval(accuracy, samples)


def _is_head_only(facts: RunFacts) -> bool:
    """Whether the score before training is that of ``head-only``: a head that was solved, and no block trained."""
    return facts.first_head is not None and _policy(facts) in HEAD_POLICIES and not facts.is_given


def _start_name(facts: RunFacts) -> str:
    """Return what the model before training is called."""
    given = " (the given adapter)" if facts.is_given else ""
    return "before training" + (" (head-only)" if _is_head_only(facts) else given)


def _policy(facts: RunFacts) -> str:
    return str(_get(facts.config, "model", "head"))


def _get(config: Any, *keys: str) -> Any:
    for key in keys:
        config = config.get(key) if hasattr(config, "get") else None
    return config


def _answer(facts: RunFacts) -> Iterator[str]:
    final, start = _now(facts), facts.start_accuracy
    if final is None:
        yield "Nothing has been scored yet." if facts.summary is None else "It ended before a round was scored."
        return
    yield _against_start(facts, final, start)
    if _is_head_only(facts):
        yield (
            f"What it had before training is what head-only reaches: a head {HEAD_POLICIES[_policy(facts)]} once, "
            "with no block trained."
        )
    elif facts.is_given:
        yield "Before training is the given adapter (model.adapter), whose blocks were trained before this run."
    elif start is not None:
        yield "What a solved head alone would reach was not measured here; fedhello compare runs head-only beside it."
    yield from _alone(facts, final)
    yield from _chosen(facts)
    yield from _language(facts, final)


def most_alone(facts: RunFacts) -> tuple[float, int, int] | None:
    """Return the largest test accuracy that a client alone could have, its number of classes, and that of all.

    max_k Σ_{c: n_kc > 0} m_c / Σ_c m_c, with n_kc samples of class c at client k and m_c in the test set: who has no
    sample of a class has no reason to predict it. None where classes are not known, the run starts from an adapter
    that may have learnt them elsewhere, or own heads are scored on their clients' classes alone.
    """
    classes = None if facts.plan is None else facts.plan["start"].get("classes")
    if not classes or facts.histogram is None or facts.is_given or facts.is_personal:
        return None
    counts, names = facts.histogram
    m = np.array([classes.get(name, 0) for name in names], dtype=float)
    if not m.sum():
        return None
    held = counts > 0
    right = held @ m / m.sum()
    best = int(right.argmax())
    return float(right[best]), int(held[best].sum()), len(classes)


def _alone(facts: RunFacts, final: Evaluation) -> Iterator[str]:
    alone = most_alone(facts)
    if alone is not None and alone[0] < final.accuracy:
        most, held, every = alone
        yield (
            f"No client alone could get more than {percent(most)} right, however well it learned: none has samples of "
            f"more test data than those of {held:,} of the {every:,} classes."
        )


def _against_start(facts: RunFacts, final: Evaluation, start: float | None) -> str:
    said = f"It gets {percent(final.accuracy)} of {_what(facts, final)} right {_after(facts)}"
    if start is None:
        return said + "."
    if round(final.accuracy, 4) == round(start, 4):
        return f"{said}: as many as before training."
    said += f"; before training it was {percent(start)}, a difference of {points(final.accuracy - start)}"
    if facts.is_personal:
        return f"{said}."
    # The scores share their samples, so that their difference is mostly known better than this.
    error = Z * sqrt((final.accuracy * (1 - final.accuracy) + start * (1 - start)) / max(1, final.samples))
    verdict = (
        "more than chance alone would explain"
        if abs(final.accuracy - start) > error
        else f"so few samples may differ by up to {100 * error:.1f} points by chance"
    )
    return f"{said}: {verdict}."


def _what(facts: RunFacts, final: Evaluation) -> str:
    """Return what the accuracy is a share of."""
    if facts.is_personal:
        return "the predictions of the clients' own heads, each on the test samples of its client's classes,"
    return f"the tokens of {final.samples:,} answers" if "token" in facts.metric else f"{final.samples:,} test samples"


def _after(facts: RunFacts) -> str:
    """Return after how many rounds that was; of a run that was not scored at its end, after the last scored one."""
    rounds, last = len(facts.rounds), _last_scored(facts)
    words = f"after {last:,} round{'s' * (last != 1)}"
    if last < rounds:
        words = f"after round {last:,} of {rounds:,}, the last that was scored"
    return words if facts.summary else f"so far, {words}"


def _last_scored(facts: RunFacts) -> int:
    if facts.summary is not None and facts.summary.final_scores is not None:
        return len(facts.rounds)
    return next((one.number for one in reversed(facts.rounds) if one.test is not None), len(facts.rounds))


def _chosen(facts: RunFacts) -> Iterator[str]:
    if facts.selected is None:
        return
    if facts.selected == 0:
        yield "The model handed back is that before training: on the validation data no round was surely better."
    elif facts.rounds:
        yield (
            f"The model handed back is that after round {facts.selected:,} of {len(facts.rounds):,}: no later "
            "one was surely better on the validation data."
        )


def _language(facts: RunFacts, final: Evaluation) -> Iterator[str]:
    if "perplexity" in final.more:
        before = facts.start.more.get("perplexity") if facts.start else None
        yield (
            f"Its perplexity is {final.more['perplexity']:.4g}"
            + ("" if before is None else f", before training {before:.4g}")
            + " (lower is better)."
        )
    rouge = facts.summary.rouge_l if facts.summary else None
    if rouge is not None:
        yield (
            f"ROUGE-L of its answers to {rouge.samples:,} test prompts is {rouge.after:.3f}, before training "
            f"{rouge.before:.3f}."
        )


def learning_curve(facts: RunFacts) -> Figure:
    """Return the scores by round; at least one round was scored."""
    scored = [(one.number, one.test, one.validation) for one in facts.rounds if one.test is not None]
    samples, start = scored[0][1].samples, facts.start_accuracy
    rows: list[list[Any]] = []
    if start is not None:
        loss = None if facts.start is None else facts.start.loss
        rows.append([0, start, *_interval(facts, start, samples), _start_validation(facts, "accuracy"), loss])
    for number, test, validation in scored:
        at_validation = None if validation is None else validation.accuracy
        rows.append([number, test.accuracy, *_interval(facts, test.accuracy, samples), at_validation, test.loss])
    values = [value for row in rows for value in (row[1], row[4]) if value is not None]
    fisher = [one.number for one in facts.rounds if one.scored]
    personal = facts.is_personal
    text = f"{facts.metric[0].upper()}{facts.metric[1:]} by round; round 0 is before training. " + (
        "It is the mean over the clients' own heads, each on the test samples of its client's classes."
        if personal
        else f"The band is the 95 % interval of a score on {samples:,} samples: other samples might have given any "
        "score within it."
    )
    if fisher:
        text += (
            f" Fisher scores were computed in {len(fisher):,} round{'s' * (len(fisher) != 1)}, marked at the bottom."
        )
    columns = (
        Column("round", "round", "integer"),
        Column("test", "test", "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "95 % to", "percent"),
        Column("validation", "validation", "percent"),
        Column("loss", "test loss", "number"),
    )
    spec = _curve_spec(
        axis_range(values, samples), start, fisher, facts.selected, len(rows) <= MOST_POINTS, not personal
    )
    return Figure("curve", "Learning curve", text, spec, DataTable("Scores by round", columns, rows), half=True)


def _start_validation(facts: RunFacts, what: str) -> float | None:
    return None if facts.plan is None else facts.plan["start"]["validation"][what]


def _curve_spec(
    domain: tuple[float, float],
    start: float | None,
    fisher: list[int],
    selected: int | None,
    points: bool,
    banded: bool,
) -> Spec:
    scale = {"domain": domain, "zero": False}
    y = axis(None, "accuracy", "percent", scale=scale)
    band = {"x": rounds_axis(), "y": {**y, "field": "low"}, "y2": {"field": "high"}}
    area = {"mark": {"type": "area", "style": "band", "clip": True}, "encoding": band}
    below: list[Spec] = [area] if banded else []
    if start is not None:
        below.append({"mark": {"type": "rule", "style": "reference"}, "encoding": {"y": {**y, "datum": start}}})
    above: list[Spec] = []
    if fisher:
        mark = {"type": "tick", "size": 10, "yOffset": -5, "style": "reference", "strokeDash": [1, 0]}
        at = {"field": "at", "type": "quantitative"}
        ticks = {"values": [{"at": number} for number in fisher]}
        above.append({"data": ticks, "mark": mark, "encoding": {"x": at, "y": {"value": "height"}}})
    if selected is not None:
        ring = {"type": "point", "size": 170, "filled": False, "strokeWidth": 2, "tooltip": "the model handed back"}
        place = {"x": rounds_axis(), "y": {**y, "field": "test"}}
        above.append({"transform": [{"filter": f"datum.round === {selected}"}], "mark": ring, "encoding": place})
    return lines(
        ("validation", "test"), "accuracy", "percent", height=260, dashed=("validation",), scale=scale, points=points,
        below=below, above=above,
    )  # fmt: skip


def _losses(facts: RunFacts) -> Figure:
    rows: list[list[Any]] = []
    if facts.start is not None:
        rows.append([0, None, facts.start.loss, _start_validation(facts, "loss")])
    rows += [
        [one.number, one.train_loss, one.test and one.test.loss, one.validation and one.validation.loss]
        for one in facts.rounds
    ]
    columns = (
        Column("round", "round", "integer"),
        *(Column(name, name, "number") for name in ("training", "test", "validation")),
    )
    text = (
        "Mean −log p by round: of the clients' own samples while they train, and of the test and the validation data. "
        "Lower is better. It moves where accuracies, which count whole samples, do not."
    )
    names, few = ("training", "validation", "test"), len(rows) <= MOST_POINTS
    spec = lines(names, "loss (nats)", "number", height=260, dashed=("validation",), scale={"zero": False}, points=few)
    return Figure("losses", "Loss", text, spec, DataTable("Losses by round", columns, rows), half=True)


def _scores(facts: RunFacts) -> DataTable:
    """Return the scores that a run is known by, side by side."""
    final, start = _now(facts), facts.start
    rows: list[list[Any]] = []
    if facts.start_accuracy is not None:
        rows.append(_score_row(_start_name(facts), facts.start_accuracy, start))
    if final is not None:
        ended = facts.summary is not None and facts.summary.final_scores is not None
        rows.append(_score_row("handed back" if ended else "after the last scored round", final.accuracy, final))
    last = [one.test for one in facts.rounds if one.test is not None][-LAST:]
    if last:
        mean = facts.summary.mean_last_5 if facts.summary else sum(one.accuracy for one in last) / len(last)
        rows.append(_score_row(f"mean of the last {len(last)} scored rounds", mean, None, last[-1].samples))
    if facts.summary is not None and facts.summary.best_round is not None:
        name = f"round {facts.summary.best_round + 1:,}, best on validation"
        rows.append(_score_row(name, facts.summary.best_on_validation, None, last[-1].samples if last else 0))
    more = sorted({name for one in (start, final) if one is not None for name in one.more if name != "micro_f1"})
    columns = (
        Column("what", "model"),
        Column("accuracy", facts.metric, "percent"),
        Column("low", "95 % from", "percent"),
        Column("high", "95 % to", "percent"),
        Column("loss", "loss", "number"),
        *(Column(name, name.replace("_", " ").replace("macro f1", "macro F1"), "number") for name in more),
    )
    if facts.is_personal:
        rows = [[*row[:2], None, None, *row[4:]] for row in rows]
    rows = [[*row[:5], *(None if row[5] is None else row[5].get(name) for name in more)] for row in rows]
    return DataTable("Scores", columns, rows)


def _score_row(name: str, accuracy: float | None, scores: Evaluation | None, samples: int = 0) -> list[Any]:
    samples = scores.samples if scores is not None else samples
    known = accuracy is not None and samples
    low, high = interval(accuracy, samples) if accuracy is not None and known else (None, None)
    return [name, accuracy, low, high, *((None, None) if scores is None else (scores.loss, scores.more))]


def _domains(facts: RunFacts) -> list[Part]:
    if facts.summary is None or not facts.summary.domains:
        return []
    rows = sorted(facts.summary.domains.items(), key=lambda item: item[1])
    worst, best = rows[0], rows[-1]
    text = (
        f"Test accuracy within each domain: from {percent(worst[1])} in {worst[0]} to {percent(best[1])} in {best[0]}."
    )
    columns = (Column("domain", "domain"), Column("accuracy", "test accuracy", "percent"))
    spec = bars(len(rows), "domain", axis("accuracy", "accuracy", "percent", scale={"domain": [0, 1]}))
    return [Figure("domains", "By domain", text, spec, DataTable("Accuracy by domain", columns, rows))]
