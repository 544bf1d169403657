"""What the parts of a comparison's page need: the order of the methods, their differences, and their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean

from fedhello.allocation.pareto import pareto_front
from fedhello.report.blocks import block_map
from fedhello.report.charts import Encoding, axis
from fedhello.report.comparison_figures import (
    Cost,
    Dots,
    Looks,
    State,
    cost_figure,
    curve_figure,
    interval_figure,
    within,
)
from fedhello.report.figures import Column, Figure, percent
from fedhello.report.run_quality import axis_range
from fedhello.results.compared import ComparedMethod, ComparisonSummary
from fedhello.results.comparison import Comparison, differences_from
from fedhello.results.finished import FinishedRun
from fedhello.results.statistics import CONFIDENCE, ROUNDING, PairedDifference, interval

HEAD_ONLY = "head-only"
"""The method that trains no block: what others have to be better than."""

BUDGET_KEYS = ("memory", "blocks", "rank", "upload", "seconds")
"""Limits by which tiers are ordered from weak to strong: the first that differs."""

FAR = 0.2
"""Pictures leave out a method whose accuracy is so much below the best, so that they show how the others differ."""

LEAST_REACH = 0.03
"""An axis of differences reaches at least so far to both sides."""


@dataclass(frozen=True)
class View:
    """A comparison as its page shows it.

    Attributes:
        comparison: The comparison.
    """

    comparison: Comparison

    @property
    def summary(self) -> ComparisonSummary:
        """The summary of the comparison."""
        return self.comparison.summary

    @cached_property
    def methods(self) -> list[ComparedMethod]:
        """The methods: the head alone, then the best first."""
        return sorted(self.summary.methods, key=lambda one: (one.method != HEAD_ONLY, -accuracy_of(one)))

    @cached_property
    def drawn(self) -> list[ComparedMethod]:
        """The methods in pictures of accuracies: all that are not far below the best."""
        near = [one for one in self.methods if accuracy_of(one) > accuracy_of(self.best[0]) - FAR]
        return near if len(near) > 1 else self.methods

    @cached_property
    def left_out(self) -> list[str]:
        """A sentence on the methods that are too far below for a picture; empty if there is none."""
        names = [f"{one.method} ({percent(accuracy_of(one))})" for one in self.methods if one not in self.drawn]
        return [f"Far below, and left out: {listed(names)}."] if names else []

    @property
    def looks(self) -> Looks:
        """The looks of the methods."""
        return Looks([one.method for one in self.methods])

    @cached_property
    def best(self) -> list[ComparedMethod]:
        """The methods with the highest accuracy, more than one if they are equal."""
        most = max(map(accuracy_of, self.methods))
        return [one for one in self.methods if accuracy_of(one) >= most - ROUNDING]

    @cached_property
    def against(self) -> dict[str, dict[str, PairedDifference]]:
        """The reference, and the head alone → label → difference from it; empty for a single method."""
        labels = self.summary.labels
        if len(labels) == 1:
            return {}
        references = [self.summary.reference, *(label for label in labels if label == HEAD_ONLY)]
        return {label: differences_from(self.comparison, label) for label in dict.fromkeys(references)}

    def runs(self, one: ComparedMethod) -> Sequence[FinishedRun]:
        """Return a method's runs."""
        return self.comparison.runs[one.method]

    def accuracies(self) -> Figure:
        """Return the accuracy of each method: its seeds, its mean, and the interval of the mean."""
        dots = [
            Dots(
                one.method,
                {run.seed: run.mean_last_5 for run in self.runs(one)},
                accuracy_of(one),
                interval(one.mean_last_5),
            )
            for one in self.drawn
        ]
        base = HEAD_ONLY if HEAD_ONLY in self.summary.labels else self.summary.reference
        return interval_figure(
            "accuracies",
            "Accuracy of each method",
            " ".join(
                [
                    f"Rings are seeds, dots their means, lines the {100 * CONFIDENCE:.0f} % Student-t interval of each "
                    f"mean by itself; the dashed line is {base}. An interval that leaves the picture is cut.",
                    *self.left_out,
                ]
            ),
            dots,
            self._accuracy_axis(within(dots), f"{self.summary.metric}, mean of the last 5 rounds"),
            self.looks,
            next(accuracy_of(one) for one in self.methods if one.method == base),
            (f"{self.summary.metric}, mean of last 5", ""),
        )

    def differences(self) -> list[Figure]:
        """Return, for each of what methods are compared with, the differences from it seed by seed."""
        return [self._differences(f"differences-{i}", reference) for i, reference in enumerate(self.against)]

    def _differences(self, name: str, reference: str) -> Figure:
        base = {run.seed: run.mean_last_5 for run in self.comparison.runs[reference]}
        dots = []
        for one in self.drawn:
            found = self.against[reference].get(one.method)
            if found is None or found.mean is None:
                continue
            ends = None if found.low is None or found.high is None else (found.low, found.high)
            values = {run.seed: run.mean_last_5 - base[run.seed] for run in self.runs(one) if run.seed in base}
            dots.append(Dots(one.method, values, found.mean, ends, found.verdict))
        # Twice the largest standard error √(¼ / samples) of an accuracy on the test set.
        least = max(LEAST_REACH, self.summary.test_samples**-0.5)
        seen = [1.1 * value for value in within(dots)] if dots else []
        scale = {"domain": [round(min(-least, *seen), 4), round(max(least, *seen), 4)], "nice": False}
        return interval_figure(
            name,
            f"Difference from {reference}, seed by seed",
            " ".join(
                [
                    "Rings are seeds, dots their means, lines the corrected intervals; left of the dashed line is "
                    f"worse than {reference}, right of it better. An interval that leaves the picture is cut.",
                    *self.left_out,
                ]
            ),
            dots,
            axis(
                None, f"difference from {reference}", "percent", scale=scale, axis={"format": "+.1~%", "tickCount": 7}
            ),
            self.looks,
            0.0,
            (f"difference from {reference}", "verdict"),
        )

    @cached_property
    def curves(self) -> list[Figure]:
        """Accuracy by round, and by what clients have sent."""
        states = [
            State(
                one.method,
                done,
                tuple(run.curve.accuracy[t] for run in self.runs(one)),
                fmean(run.curve.bytes_up[t] for run in self.runs(one)),
            )
            for one in self.methods
            for t, done in enumerate(self.runs(one)[0].curve.rounds)
        ]
        seen = [accuracy for state in states for accuracy in state.accuracies]
        target = self.summary.target
        y = self._accuracy_axis([*seen, *([] if target is None else [target])], self.summary.metric)
        band = "The line is the mean over seeds; the band reaches from the lowest to the highest seed."
        sent = f"What all clients together have sent by then, mean over seeds. {band}"
        return [
            curve_figure("learning-curves", "Accuracy by round", band, states, y, self.looks, target, by_upload=False),
            curve_figure(
                "accuracy-by-upload",
                "Accuracy by what clients have sent",
                sent,
                states,
                y,
                self.looks,
                target,
                by_upload=True,
            ),
        ]

    @cached_property
    def memory(self) -> Figure | None:
        """Accuracy against memory; None where none was measured."""
        peaks = {one.method: found for one in self.methods if (found := peaks_of(one)) is not None}
        if not peaks:
            return None
        return self._against_cost(
            "accuracy-by-memory",
            "Accuracy against memory",
            "The peak memory of a step above the loaded model, the largest over seeds: the mark is the tier with the "
            "smallest budget, and the line ends at the tier with the largest.",
            Column("cost", "peak memory of a step", "bytes"),
            peaks,
        )

    def spent(self) -> list[Figure]:
        """Return accuracy against bytes and seconds."""
        return [
            self._against_cost(
                "accuracy-by-bytes",
                "Accuracy against bytes",
                "What all clients send and receive in the whole run, mean over seeds.",
                Column("cost", "sent and received by all clients", "bytes"),
                {one.method: (one.bytes_up + one.bytes_down, None) for one in self.methods},
                half=True,
            ),
            self._against_cost(
                "accuracy-by-seconds",
                "Accuracy against seconds",
                "The training of all clients, added up, mean over seeds. It depends on what else the machine did.",
                Column("cost", "training of all clients", "seconds"),
                {one.method: (one.train_seconds, None) for one in self.methods},
                half=True,
            ),
        ]

    def _against_cost(
        self,
        name: str,
        title: str,
        text: str,
        x: Column,
        costs: Mapping[str, tuple[float, float | None]],
        half: bool = False,
    ) -> Figure:
        there = [one for one in self.methods if one.method in costs]
        front = pareto_front([(costs[one.method][0], costs[one.method][1] or 0, -accuracy_of(one)) for one in there])
        found = [
            Cost(one.method, accuracy_of(one), one.mean_last_5.deviation, *costs[one.method], i in front)
            for i, one in enumerate(there)
        ]
        by_cost = sorted(found, key=lambda one: one.least)
        on, off = ([one.method for one in by_cost if one.on_front == which] for which in (True, False))
        missing = [one.method for one in self.methods if one not in there]
        said = [text, f"On the Pareto front (filled): {listed(on)}."]
        said += [f"Another method costs no more and is no worse than {listed(off, 'or')} (hollow)."] if off else []
        said += [f"Not measured: {listed(missing)}."] if missing else []
        said += self.left_out
        seen = [accuracy_of(one) + sign * (one.mean_last_5.deviation or 0.0) for one in self.drawn for sign in (-1, 1)]
        names = [one.method for one in self.drawn]
        found = [one for one in found if one.method in names]
        y = self._accuracy_axis(seen, self.summary.metric)
        return replace(cost_figure(name, title, " ".join(said), found, x, y, self.looks), half=half)

    def _accuracy_axis(self, values: Sequence[float], title: str) -> Encoding:
        domain = axis_range([min(max(value, 0.0), 1.0) for value in values], self.summary.test_samples)
        scale = {"domain": list(domain), "nice": False, "zero": False}
        return axis(None, title, "percent", scale=scale, axis={"tickCount": 6, "format": ".1~%"})

    def blocks(self) -> tuple[list[Figure], dict[int, list[str]]]:
        """Return figures of the trained blocks in each method's first seed.

        Without a figure are methods with the same number of clients for each block in all rounds: number → methods.
        """
        first = {one.method: self.runs(one)[0] for one in self.methods}
        counts = {label: [record.report.contributors for record in run.rounds] for label, run in first.items()}
        most = max((count for rows in counts.values() for row in rows for count in row), default=0)
        different = {label: {count for row in rows for count in row} for label, rows in counts.items()}
        alike: dict[int, list[str]] = {}
        for label, found in different.items():
            if len(found) == 1:
                alike.setdefault(found.pop(), []).append(label)
        shown = [label for label, found in different.items() if found]
        return [
            block_map(
                f"blocks-{i}",
                f"{label}, seed {first[label].seed}",
                "How many clients trained each block in each round; block 0 is next to the input.",
                list(enumerate(counts[label], 1)),
                most=most,
                legend=i == 0,
            )
            for i, label in enumerate(shown)
        ], alike


def accuracy_of(one: ComparedMethod) -> float:
    """Return the mean accuracy of the last five rounds, which every finished run has."""
    assert one.mean_last_5.mean is not None
    return one.mean_last_5.mean


def peaks_of(one: ComparedMethod) -> tuple[float, float] | None:
    """Return the peaks in the tiers with the smallest and the largest budget; None if one was not measured."""
    order = sorted(one.tiers, key=lambda tier: [tier.budget.limits.get(key, float("inf")) for key in BUDGET_KEYS])
    weak, strong = order[0].peak_bytes, order[-1].peak_bytes
    return None if weak is None or strong is None else (weak, strong)


def listed(words: Sequence[str], last: str = "and") -> str:
    """Write words as a list.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
