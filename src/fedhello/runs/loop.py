"""Run a session's rounds one after the other, and score the global adapter after some of them."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from fedhello import algorithm
from fedhello.client.distillation import learn_from_each_other
from fedhello.data.batches import Samples
from fedhello.engine.observer import Observer, phase_after
from fedhello.engine.protocol import Heads
from fedhello.engine.tensors import LARGEST_VALUE
from fedhello.errors import ConfigError, QuorumError
from fedhello.model.evaluation import Evaluation, evaluate, evaluate_personal, weighted_mean
from fedhello.model.head import is_shared
from fedhello.model.number_type import in_bfloat16
from fedhello.model.validation import same_objects
from fedhello.runs.finite import FiniteRounds
from fedhello.runs.heads import (
    HeadChange,
    final_head,
    first_head,
    following_head,
    refreshed_head,
    without_final_head,
)
from fedhello.runs.private_rounds import released_round
from fedhello.runs.scoring import Scorer
from fedhello.runs.selection import first_selection, selection_after
from fedhello.session import Session
from fedhello.state import RoundReport, RunState
from fedhello.strategy import AllocationContext, BoundMethod, Distillation, the_global_model
from fedhello.types import Adapter, Allocation, Rejection, Task, Update

Watch = Callable[[Update | Rejection], None]
"""Function that is called with a client's reply: its update or its rejection."""


@dataclass(frozen=True)
class RunStart:
    """The start of a run, before round 0.

    Attributes:
        state: The state; for a resumed run that of its checkpoint.
        head: How the initial head was made; None if it is random.
        validation: Scores of the untrained adapter on the server's validation data.
        test: Scores of the untrained adapter on the server's test data.
        records: For a resumed run, the records of the rounds of earlier processes.

    Example:
        >>> start = fh.start(fh.prepare("my.yaml"))
        >>> start.head.clients, start.records
        (4, ())
    """

    state: RunState
    head: HeadChange | None
    validation: Evaluation
    test: Evaluation
    records: "tuple[RoundRecord, ...]" = ()


@dataclass(frozen=True)
class RoundRecord:
    """The record of one attempt at a round, as it is shown and stored.

    Attributes:
        report: The algorithm's report.
        train_loss: Mean loss over the round's samples; None if no update counted.
        validation: Scores of the model that the run would return now on the validation data; None if it was not scored.
        test: Scores on the test data, for reporting only; None if it was not scored.
        seconds: Wall seconds of allocation, training and aggregation.
        evaluation_seconds: Wall seconds of the two evaluations.
        head: The change of the head after the round; None if it was not solved again.
        selected: Number of rounds after which the currently selected model was reached, 0 for the start; None without
            model selection.

    Example:
        >>> state, record = next(fh.rounds(fh.prepare("my.yaml")))
        >>> record.report.round, record.train_loss > 0, record.test.samples > 0
        (0, True, True)
    """

    report: RoundReport
    train_loss: float | None
    validation: Evaluation | None
    test: Evaluation | None
    seconds: float
    evaluation_seconds: float
    head: HeadChange | None = None
    selected: int | None = None


def start(session: Session) -> RunStart:
    """Make the initial head, and evaluate the adapter before training.

    It can be called again: the model is reset to its initial values.
    """
    model = session.model
    model.write(session.initial)
    state, head = first_head(session, model.snapshot(is_shared(session.head.policy)))
    if session.head.is_personal:
        state = replace(state, personal_heads={})
    return RunStart(state, head, *evaluate_adapter(session, state.adapter, state.personal_heads))


def rounds(session: Session, state: RunState, watch: Watch | None = None) -> Iterator[tuple[RunState, RoundRecord]]:
    """Run the remaining rounds one by one, and evaluate the global adapter (or each of the models) when due.

    A failed attempt is yielded like a round; its state has not changed, and the round is attempted again. So is a round
    after which the losses on the validation data are not finite, see ``fedhello.runs.finite``.

    Args:
        session: The session.
        state: The state to continue from.
        watch: Called with each reply of a client before it is aggregated.

    Raises:
        ConfigError: If the state's learning rate is none.
        QuorumError: If ``train.retries`` attempts at one round fail.
    """

    def distil(models: Sequence[Adapter], how: Distillation, t: int) -> list[Adapter]:
        return learn_from_each_other(session.model, session.server.public, models, how, session.settings.seed, t)

    _check_rate(state)
    fisher, scores, finite = Scorer(session), _Scores(session), FiniteRounds(session)
    settings, observer = session.settings, session.engine.observer
    method = _telling(session.method, observer)
    if state.round < settings.rounds:
        state = without_final_head(state)
    while state.round < settings.rounds:
        begin = time.perf_counter()
        observer.on_attempt(state.round, state.attempt)
        if session.drift is not None:
            session.drift.begin(state)
        before = state = first_selection(session, released_round(session, state))
        train = partial(_watched, session, state.personal_heads, watch, finite)
        state, record = algorithm.round(state, session.federation, method, train, fisher, distil)
        record = fisher.recorded(record)
        record = replace(record, flags=(*record.flags, *_rate_flags(state)))
        if state.personal_heads is not None:
            trained = session.engine.trained_heads(record)
            state = replace(state, personal_heads={**state.personal_heads, **trained})
        if state.adapter is not before.adapter:
            state, flag = following_head(session, state)
            record = record if flag is None else replace(record, flags=(*record.flags, flag))
            state = selection_after(session, state)
        state, head = _head_after(session, state, record)
        played = time.perf_counter()
        state, record, head, (validation, test) = _checked(finite, scores, before, (state, record, head))
        loss = _train_loss(record)
        selected = None if state.selected is None else state.selected_round
        seconds = (played - begin, time.perf_counter() - played)
        yield state, RoundRecord(record, loss, validation, test, *seconds, head, selected)
        if record.failed is not None and state.attempt >= settings.retries:
            raise _no_quorum(record, before.adapter, session.called)


def _train_loss(record: RoundReport) -> float | None:
    """Return the mean over the round's samples; None if no client could take part."""
    if record.train_loss is not None or not record.clients:
        return record.train_loss
    if not all("loss" in report.metrics for report in record.clients):
        return None
    samples = sum(report.samples for report in record.clients)
    return sum(report.metrics["loss"] * report.samples for report in record.clients) / samples


def _check_rate(state: RunState) -> None:
    if state.lr is not None and not 0 < state.lr < float("inf"):
        raise ConfigError(f"expected the state's lr to be a finite number above 0, or None; found {state.lr!r}")


def _rate_flags(state: RunState) -> list[str]:
    if state.lr is None:
        return []
    return [f"clients trained with another learning rate than the configuration's, that of the state: {state.lr:g}"]


def _telling(method: BoundMethod, observer: Observer) -> BoundMethod:
    """Return a method that tells an observer who trains: each client to which it allocates something."""

    def allocate(context: AllocationContext) -> Allocation | None:
        found = method.allocate(context)
        if found is not None:
            observer.on_asked(context.client.id)
        return found

    return replace(method, allocate=allocate)


def _watched(
    session: Session, heads: Heads | None, watch: Watch | None, finite: FiniteRounds, tasks: Iterable[Task]
) -> Iterator[Update | Rejection]:
    """Let clients train, and call ``watch`` with each reply."""
    observer = session.engine.observer
    observer.on_phase("training")
    for reply in finite.screened(session.engine.train(tasks, heads)):
        observer.on_client(reply.client, phase_after(reply))
        if watch is not None:
            watch(reply)
        yield reply
    observer.on_phase("aggregating")


def _head_after(session: Session, state: RunState, record: RoundReport) -> tuple[RunState, HeadChange | None]:
    """Solve the head again if due: from the round's clients between rounds, from all clients at the end."""
    if record.failed is not None or session.row.models is not the_global_model:
        return state, None
    state, head = refreshed_head(session, state, [report.client for report in record.clients])
    if head is not None:
        state = selection_after(session, state)
    if state.round < session.settings.rounds or not session.head.final:
        return state, head
    state, last = final_head(session, state)
    if head is None or last is None:
        return state, last or head
    up, down = head.bytes_up + last.bytes_up, head.bytes_down + last.bytes_down
    return state, replace(last, bytes_up=up, bytes_down=down)


def _checked(
    finite: FiniteRounds,
    scores: "_Scores",
    before: RunState,
    after: tuple[RunState, RoundReport, HeadChange | None],
) -> tuple[RunState, RoundReport, HeadChange | None, tuple[Evaluation | None, Evaluation | None]]:
    """Return what a round led to with its scores where due; it is undone if losses are no longer finite."""
    state, record, head = after
    found = scores.due(state)
    if state.round == before.round or not finite.is_harmed(before, state, record, found[0], scores.validation):
        return state, record, head, found
    state, record = finite.undone(before, state, record)
    return state, record, None, scores.due(state)


def _no_quorum(record: RoundReport, start: Adapter, called: Callable[[int], str]) -> QuorumError:
    rejected = "; ".join(f"{called(r.client)} {r.reason}: {r.detail}" for r in record.rejections)
    reasons = f" ({rejected})" if rejected else ""
    return QuorumError(
        f"expected enough updates in round {record.round + 1}; found {record.attempt + 1} failed attempts, in the last "
        f"of which {record.failed}{reasons}. {_advice(record, start)}, or change train.quorum, train.retries or "
        "train.over_selection."
    )


def _advice(record: RoundReport, start: Adapter) -> str:
    """Return what to do first: where most clients' values are too large, it is no client's fault but a setting's."""
    beyond = sum(rejection.reason == "out of bounds" for rejection in record.rejections)
    if 2 * beyond <= len(record.rejections) + len(record.clients):
        return "Fix what the clients report"
    factors = [
        value for name, value in start.tensors.items() if "lora_" in name and value.numel()
    ]  # heads may be large
    largest = max((float(value.abs().max()) for value in factors), default=0.0)
    if record.round and largest > LARGEST_VALUE / 10:
        return (
            f"The values that the round started from reach {largest:.3g} already: resume from an earlier checkpoint, "
            "lower train.server.lr or train.lr"
        )
    return "Most clients' steps are too large: lower train.lr, or model.lora.alpha or train.lr_head if they are large"


@dataclass
class _Scores:
    """Evaluates the models of a state; a model that has not changed since it was scored is not evaluated again.

    Attributes:
        session: The session.
        known: Name of a model → its tensors and those of the personal heads, and its scores on validation and test set.
    """

    session: Session
    known: dict[str, tuple[list[Tensor], tuple[Evaluation, Evaluation]]] = field(default_factory=dict)

    def due(self, state: RunState) -> tuple[Evaluation | None, Evaluation | None]:
        """Return the scores on the validation and the test set if this state is scored."""
        return self.of(state) if self.session.settings.is_scored_after(state.round) else (None, None)

    def validation(self, state: RunState) -> Evaluation:
        """Return the scores on the validation set."""
        return self.of(state)[0]

    def of(self, state: RunState) -> tuple[Evaluation, Evaluation]:
        """Return the mean over the models on the validation and the test set."""
        models = self.session.method.models(state, self.session.federation)
        found = [self._one(name, adapter, state.personal_heads) for name, adapter in models.items()]
        return mean_over_models(found)

    def _one(self, name: str, adapter: Adapter, heads: Heads | None) -> tuple[Evaluation, Evaluation]:
        tensors = [tensor for part in (adapter.tensors, *(heads or {}).values()) for tensor in part.values()]
        for before, scores in self.known.values():
            if same_objects(before, tensors):
                self.known[name] = (tensors, scores)
                return scores
        self.known[name] = (tensors, evaluate_adapter(self.session, adapter, heads))
        return self.known[name][1]


def mean_over_models(found: Sequence[tuple[Evaluation, Evaluation]]) -> tuple[Evaluation, Evaluation]:
    """Return the mean scores over models on the validation and the test set, with equal weights."""
    if len(found) == 1:
        return found[0]
    equal = [1.0] * len(found)
    validation, test = zip(*found, strict=True)
    return weighted_mean(validation, equal, validation[0].samples), weighted_mean(test, equal, test[0].samples)


def evaluate_adapter(session: Session, adapter: Adapter, heads: Heads | None = None) -> tuple[Evaluation, Evaluation]:
    """Evaluate an adapter on the validation and the test set, with personal heads if given."""
    session.engine.observer.on_phase("scoring")
    validation, test = _evaluated(session, adapter, (session.server.validation, session.server.test), heads)
    return validation, test


def domain_scores(session: Session, state: RunState) -> dict[str, float]:
    """Return the test accuracy within each domain, the mean over the models of a state.

    Empty if the data has no domains, or clients keep their own heads, which do not cover all classes.
    """
    domains = session.server.domains
    if not domains or state.personal_heads is not None:
        return {}
    models = session.method.models(state, session.federation).values()
    found = [_evaluated(session, adapter, domains.values()) for adapter in models]
    return {
        name: sum(score.accuracy for score in scores) / len(scores)
        for name, scores in zip(domains, zip(*found, strict=True), strict=True)
    }


def _evaluated(
    session: Session, adapter: Adapter, parts: Iterable[Samples], heads: Heads | None = None
) -> list[Evaluation]:
    """Evaluate an adapter on some samples; the forward pass runs in the same number type as in training."""
    model, metrics = session.model, session.settings.metrics
    model.write(adapter.tensors)
    with in_bfloat16(model, session.bfloat16):
        if heads is None:
            return [evaluate(model, part, metrics) for part in parts]
        classes = {client.id: client.classes for client in session.federation.clients}
        initial = {name: session.initial[name] for name in model.head_names}
        everyones = {k: heads.get(k, initial) for k in classes}
        return [evaluate_personal(model, part, everyones, classes, metrics) for part in parts]
