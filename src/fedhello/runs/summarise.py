"""Compute the summary of a run."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedhello.formatting import human_bytes
from fedhello.model.evaluation import Evaluation
from fedhello.model.sources import CAUSAL_LM
from fedhello.privacy.ledger import write_ledger
from fedhello.runs.heads_said import head_line
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.private_heads import ledger_of
from fedhello.runs.summary import HeadSummary, SearchSummary, SelectionSummary, Summary, TierSummary
from fedhello.session import Session
from fedhello.state import ClientReport, RunState
from fedhello.strategy import the_global_model
from fedhello.types import Rejection

LAST = 5
"""Number of last scored rounds in the reported mean."""

Status = Literal["finished", "interrupted", "failed", "stopped", "saved"]


def summarise(
    session: Session,
    beginning: RunStart,
    attempts: Sequence[RoundRecord],
    *,
    state: RunState | None = None,
    wall_seconds: float,
    status: Status,
) -> Summary:
    """Return the summary of a run: accuracies within 0 … 1, bytes and seconds.

    Bytes and rejections are those of all attempts, everything else is of committed rounds. ``start``,
    ``final`` and ``mean_last_5`` are of the test set, before, after and over the last scored rounds;
    ``best_on_validation`` is the test accuracy of the scored round that was best on the validation set. What was
    released under differential privacy is that of the last ``state``; None if there was no round.
    """
    results = [result for result in attempts if result.report.failed is None]
    reports = [report for result in results for report in result.report.clients]
    sent: list[ClientReport | Rejection] = [report for attempt in attempts for report in attempt.report.clients]
    sent += [rejection for attempt in attempts for rejection in attempt.report.rejections]
    heads = [head for head in (beginning.head, *(attempt.head for attempt in attempts)) if head is not None]
    train_seconds = sum(report.metrics.get("seconds", 0.0) for report in reports)
    samples = sum(int(report.metrics.get("samples", 0)) for report in reports)
    scored = _scored(session, results)
    accuracies = [test.accuracy for _, _, test in scored]
    best = max(scored, key=lambda found: found[1].accuracy, default=None)
    last = results[-1].test if results else None
    search, selection = _search(results), _selection(results)
    ledger = None if session.private is None else ledger_of(session.private, state or beginning.state)
    return Summary(
        status=status,
        method=session.row.name,
        seed=session.settings.seed,
        rounds=len(results),
        metric=metric_of(session),
        start=beginning.test.accuracy,
        start_scores=beginning.test,
        final_scores=last,
        final=None if last is None else last.accuracy,
        mean_last_5=sum(accuracies[-LAST:]) / len(accuracies[-LAST:]) if accuracies else None,
        best_on_validation=None if best is None else best[2].accuracy,
        best_round=None if best is None else best[0],
        bytes_up=sum(one.bytes_up for one in (*heads, *sent)) + sum(a.report.score_bytes_up for a in attempts),
        bytes_down=sum(one.bytes_down for one in (*heads, *sent)) + sum(a.report.score_bytes_down for a in attempts),
        head=HeadSummary(policy=session.head.policy, changes=tuple(heads)),
        search=search,
        selection=selection,
        rejections=Counter(rejection.reason for result in attempts for rejection in result.report.rejections),
        failed_attempts=len(attempts) - len(results),
        flags=tuple(dict.fromkeys(flag for result in results for flag in result.report.flags)),
        wall_seconds=wall_seconds,
        train_seconds=train_seconds,
        evaluation_seconds=sum(result.evaluation_seconds for result in results),
        samples=samples,
        samples_per_second=samples / train_seconds if train_seconds else None,
        tiers=tuple(_tier_summary(session, results, g) for g in range(len(session.federation.tiers))),
        personal_heads=session.head.is_personal,
        model=session.model.source.base_name,
        model_kind=session.model.kind,
        pooling=session.model.pooling,
        labels=session.labels,
        notes=(
            *session.notes,
            *([] if ledger is None else [ledger.words()]),
            *_head_lines(session, beginning, results),
            *taken_lines(search, selection),
            *over_budget_lines(session, attempts),
        ),
        versions=versions(),
        privacy=None if ledger is None else write_ledger(ledger),
    )


def _search(results: Sequence[RoundRecord]) -> SearchSummary | None:
    """Return in how many rounds the server's search took a step, and the bytes sent in the other rounds."""
    records = [result.report for result in results if result.report.step is not None and result.report.clients]
    if not records:
        return None
    vain = sum(report.bytes_up for record in records if not record.step for report in record.clients)
    taken = sum(bool(record.step) for record in records)
    return SearchSummary(rounds=len(records), taken=taken, bytes_up_in_vain=vain)


def taken_lines(search: SearchSummary | None, selection: SelectionSummary | None) -> list[str]:
    """Return lines on the server's steps and on the selected model."""
    return [
        *([] if search is None else [_search_line(search)]),
        *([] if selection is None else [_selection_line(selection)]),
    ]


def _search_line(search: SearchSummary) -> str:
    said = f"the server took a step in {search.taken} of {search.rounds} rounds"
    if search.taken == search.rounds:
        return said
    more = ""
    if not search.taken:
        more = "; training has not improved the model, and method.name=head-only costs one exchange of sums"
    return (
        f"{said}: in the others no step improved the validation loss by more than chance, and the "
        f"{human_bytes(search.bytes_up_in_vain)} that clients sent were not used{more}"
    )


OVER_BUDGET = "over the memory budget"
"""What the note on clients over their budget contains."""

MOST_NAMED = 5
"""The most clients that a note names."""


def over_budget_lines(session: Session, attempts: Sequence[RoundRecord]) -> list[str]:
    """Return a line on the clients whose measured memory was over their budget, in whatever round; none if none was."""
    rounds: dict[int, list[int]] = {}
    most: dict[int, float] = {}
    for report in (attempt.report for attempt in attempts):
        for client in report.over_budget:
            rounds.setdefault(client, []).append(report.round)
        for one in report.clients:
            measured = max(one.metrics.get("peak_bytes", 0.0), one.metrics.get("process_bytes", 0.0))
            most[one.client] = max(most.get(one.client, 0.0), measured)
    if not rounds:
        return []
    said = []
    for client, when in sorted(rounds.items())[:MOST_NAMED]:
        budget = session.federation.tiers[session.tier_of[client]].memory or 0
        found = human_bytes(int(most[client])) if most.get(client, 0.0) > budget else "more than it had"
        times = f"{len(when)} times, first in" if len(when) > 1 else "in"
        said.append(f"client {client} ({found} of {human_bytes(budget)}, {times} round {when[0]})")
    more = f" and {len(rounds) - MOST_NAMED} more" if len(rounds) > MOST_NAMED else ""
    who = "a client was" if len(rounds) == 1 else f"{len(rounds)} clients were"
    return [f"{who} {OVER_BUDGET}: {', '.join(said)}{more}; each was planned smaller from then on"]


def _selection(results: Sequence[RoundRecord]) -> SelectionSummary | None:
    """Return after how many rounds, and of how many, the selected model was reached; 0 is the start."""
    if not results or results[-1].selected is None:
        return None
    return SelectionSummary(round=results[-1].selected, rounds=len(results))


def _selection_line(selection: SelectionSummary) -> str:
    if selection.round:
        return (
            f"the adapter is that after round {selection.round} of {selection.rounds}: no later one is surely better "
            "on the server's validation data"
        )
    return (
        f"the adapter is that before training: none of {selection.rounds} rounds is surely better on the server's "
        "validation data, and method.name=head-only costs one exchange of sums"
    )


def _head_lines(session: Session, beginning: RunStart, results: Sequence[RoundRecord]) -> list[str]:
    """Return lines on the first and the last change of the head."""
    changes = [(beginning.head, 0), *((result.head, result.report.round + 1) for result in results)]
    found = [
        head_line(head, session.head, session.statistics.least, rounds) for head, rounds in changes if head is not None
    ]
    return [*found[:1], *found[1:][-1:]]


def _scored(session: Session, results: Sequence[RoundRecord]) -> list[tuple[int, Evaluation, Evaluation]]:
    """Return t and the scores on validation and test set of the scored rounds.

    A round that was scored only because it was the last, before rounds were added to the run, is left out.
    """
    return [
        (result.report.round, result.validation, result.test)
        for result in results
        if result.validation is not None
        and result.test is not None
        and session.settings.is_scored_after(result.report.round + 1)
    ]


def metric_of(session: Session) -> str:
    """Return what the accuracies of a run are of."""
    if session.model.kind == CAUSAL_LM:
        return "test token accuracy"
    of = " of personal heads" if session.head.is_personal else ""
    one = session.row.models is the_global_model
    return f"test accuracy{of}" if one else f"test accuracy{of}, mean over models"


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    packages = ("fedhello", "torch", "transformers", "peft", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def _tier_summary(session: Session, results: Sequence[RoundRecord], tier: int) -> TierSummary:
    """Return the summary of one tier; peaks are the largest measured, other values means per client and round."""
    reports = [report for result in results for report in result.report.clients if report.tier == tier]

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    def largest(metric: str) -> float | None:
        return max((report.metrics[metric] for report in reports if metric in report.metrics), default=None)

    trained = np.zeros(session.federation.num_blocks, dtype=int)
    for report in reports:
        trained[list(report.blocks)] += 1
    return TierSummary(
        budget=session.federation.tiers[tier].limits,
        over_budget=sum(session.tier_of[k] == tier for result in results for k in result.report.over_budget),
        clients=session.tier_of.count(tier),
        participations=len(reports),
        blocks_trained=tuple(trained.tolist()),
        predicted_peak_bytes=largest("predicted_peak_bytes"),
        predicted_memory_bytes=largest("predicted_memory_bytes"),
        measured_peak_bytes=largest("peak_bytes"),
        measured_process_bytes=largest("process_bytes"),
        saved_bytes=largest("saved_bytes"),
        seconds=mean([report.metrics["seconds"] for report in reports if "seconds" in report.metrics]),
        bytes_up=mean([report.bytes_up for report in reports]),
        bytes_down=mean([report.bytes_down for report in reports]),
    )
