"""Play a session's rounds: start, then one after the other, scoring the global adapter after each."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from fedhello import algorithm
from fedhello.client.fisher import block_scores
from fedhello.model.evaluation import Evaluation, evaluate, evaluate_personal
from fedhello.model.head import add_up, is_shared, prototype_head
from fedhello.run.session import Session
from fedhello.types import Adapter, RoundRecord, RunState


@dataclass(frozen=True)
class Beginning:
    """What is there before round 0.

    Attributes:
        state: The state.
        bytes_up: Bytes that clients sent for the class prototypes.
        validation: Of the adapter that nobody has trained yet.
        test: Likewise.
    """

    state: RunState
    bytes_up: int
    validation: Evaluation
    test: Evaluation


@dataclass(frozen=True)
class RoundResult:
    """One round as it is shown and stored.

    Attributes:
        record: What the algorithm did.
        train_loss: Mean over the round's samples.
        validation: Of the global adapter after the round; for choosing.
        test: Likewise; for reporting only.
        seconds: Wall seconds of allocation, training and aggregation.
        evaluation_seconds: Wall seconds of the two evaluations.
    """

    record: RoundRecord
    train_loss: float
    validation: Evaluation
    test: Evaluation
    seconds: float
    evaluation_seconds: float


def start(session: Session) -> Beginning:
    """Put the head where its policy says, and evaluate the adapter before any training.

    A session can be started again: everything goes back to how it was prepared.
    """
    model, bytes_up = session.model, 0
    model.write(session.initial)
    if session.engine.personal_heads is not None:
        session.engine.personal_heads = {}
    if session.config.model.head == "prototypes":
        parts = list(session.engine.class_sums())
        bytes_up = sum(size for _, size in parts)
        weight, bias = prototype_head(add_up(sums for sums, _ in parts), session.config.model.head_scale)
        head = {model.head_tensor_name("weight"): weight, model.head_tensor_name("bias"): bias}
        model.write({name: value for name, value in head.items() if name in model.head_names})
    adapter = model.snapshot(is_shared(session.config.model.head))
    return Beginning(algorithm.init(adapter), bytes_up, *evaluate_adapter(session, adapter))


def rounds(session: Session, state: RunState) -> Iterator[tuple[RunState, RoundResult]]:
    """Play the remaining rounds one by one, evaluating the global adapter after each."""

    def fisher(adapter: Adapter) -> tuple[float, ...]:
        session.model.write(adapter.tensors)
        return block_scores(session.model, session.server.proxy)

    while state.round < session.config.train.rounds:
        begin = time.perf_counter()
        state, record = algorithm.round(state, session.federation, session.method, session.engine.train, fisher)
        played = time.perf_counter()
        validation, test = evaluate_adapter(session, state.adapter)
        samples = sum(report.samples for report in record.clients)
        loss = sum(report.metrics["loss"] * report.samples for report in record.clients) / samples
        yield (
            state,
            RoundResult(record, loss, validation, test, played - begin, time.perf_counter() - played),
        )


def evaluate_adapter(session: Session, adapter: Adapter) -> tuple[Evaluation, Evaluation]:
    """Evaluate an adapter on the validation and the test set, with personal heads if clients keep their own."""
    model, engine, server = session.model, session.engine, session.server
    model.write(adapter.tensors)
    if engine.personal_heads is None:
        return evaluate(model, server.validation), evaluate(model, server.test)
    classes = {client.id: client.classes for client in session.federation.clients}
    heads = {k: engine.personal_heads.get(k, engine.initial_head) for k in classes}
    return (
        evaluate_personal(model, server.validation, heads, classes),
        evaluate_personal(model, server.test, heads, classes),
    )
