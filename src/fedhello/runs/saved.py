"""Where a loop by hand has led to, saved as the folder of a run."""

from collections.abc import Sequence

from fedhello.errors import ConfigError
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import RoundRecord, RunStart, evaluate_adapter
from fedhello.runs.progress import Progress, identity_of
from fedhello.runs.summarise import summarise
from fedhello.session import Session
from fedhello.state import RunState


def save_state(
    session: Session, state: RunState, folder: RunFolder, start: RunStart | None, records: Sequence[RoundRecord]
) -> None:
    """Write a run's folder with the status ``saved``: configuration, adapter, summary; with its history a checkpoint.

    Args:
        session: What ran.
        state: Where it is now; it is scored anew.
        folder: A new one.
        start: What was there before round 0; None where only the model is to be kept.
        records: What every round since then came to, in their order.

    Raises:
        ConfigError: If the records are not those of the rounds of the state.
        RunFolderError: If the folder exists or cannot be written.
    """
    played = [record.report.round for record in records if record.report.failed is None]
    if start is None and records:
        raise ConfigError("expected the start beside the records of its rounds; found none. Keep what start() returns.")
    if start is not None and played != list(range(state.round)):
        raise ConfigError(
            f"expected the records of the {state.round} rounds that led to this state, in their order; found those of "
            f"rounds {[t + 1 for t in played]}. Keep every record, or save without start and records."
        )
    validation, test = evaluate_adapter(session, state.model, state.personal_heads)
    identity = identity_of(session)
    seconds = sum(record.seconds + record.evaluation_seconds for record in records)
    began = start or RunStart(state, None, validation, test)
    summary = summarise(session, began, records, wall_seconds=seconds, status="saved").but(
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
        folder.finish(session, summary, models, state.personal_heads)
