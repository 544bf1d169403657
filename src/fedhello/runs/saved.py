"""Save the state of a user's own loop as a run folder."""

from collections.abc import Sequence

from fedhello.errors import ConfigError
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.confusion import Confusion
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import RoundRecord, RunStart, evaluate_adapter
from fedhello.runs.progress import Progress, identity_of
from fedhello.runs.summarise import summarise
from fedhello.session import Session
from fedhello.state import RunState


def save_state(
    session: Session, state: RunState, folder: RunFolder, start: RunStart | None, records: Sequence[RoundRecord]
) -> None:
    """Write a run's folder with the status ``saved``; with its history it gets a checkpoint.

    Args:
        session: The session of the rounds.
        state: The state to save; it is scored again.
        folder: A new folder.
        start: The start of the run; None to save only the model.
        records: The record of every round since the start, in order.

    Raises:
        ConfigError: If the records do not match the rounds of the state.
        RunFolderError: If the folder exists or cannot be written.
    """
    played = [record.report.round for record in records if record.report.failed is None]
    if start is None and records:
        raise ConfigError("expected the start with the records of its rounds; found none. Pass the result of start().")
    if start is not None and played != list(range(state.round)):
        raise ConfigError(
            f"expected the records of the {state.round} rounds before this state, in order; found those of rounds "
            f"{[t + 1 for t in played]}. Keep every record, or save without start and records."
        )
    validation, test = evaluate_adapter(session, state.model, state.personal_heads)
    identity = identity_of(session)
    seconds = sum(record.seconds + record.evaluation_seconds for record in records)
    began = start or RunStart(state, None, validation, test)
    summary = summarise(session, began, records, state=state, wall_seconds=seconds, status="saved").but(
        final=test.accuracy,
        rounds=state.round,
        weights=identity["model"]["weights"],
        forgotten=state.forgotten,
    )
    if start is None:
        summary = summary.but(start=None, start_scores=None)
    models = session.method.models(state, session.federation)
    last = next(iter(models.values())) if len(models) == 1 else state.adapter
    folder.begin(session)
    with folder.locked():
        for record in records:
            folder.add_round(record)
        if start is not None:
            progress = Progress(start, (), state, tuple(records))
            Checkpoints(folder.checkpoints, session.settings.keep).save(progress.checkpoint(identity))
        session.model.write(last.tensors)
        confusion = Confusion.of(None if start is None else start.test, test)
        folder.finish(session, summary, models, state.personal_heads, confused=confusion)
