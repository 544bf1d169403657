"""Where a loop by hand has led to, saved as the folder of a run."""

from collections.abc import Sequence

from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.loop import RoundRecord, RunStart, evaluate_adapter
from fedhello.runs.progress import Progress, identity_of
from fedhello.runs.summary import summarise
from fedhello.session import Session
from fedhello.types import RunState


def save_state(session: Session, state: RunState, folder: RunFolder, records: Sequence[RoundRecord] = ()) -> None:
    """Write a run's folder with the status ``saved``: configuration, adapter, checkpoint, summary, rounds as given.

    Args:
        session: What ran.
        state: Where it is now; its scores are taken anew.
        folder: A new one.
        records: What the rounds came to. Without them, ``start`` in the summary is what the model is worth now.

    Raises:
        RunFolderError: If the folder exists or cannot be written.
    """
    validation, test = evaluate_adapter(session, state.model)
    start = RunStart(state, None, validation, test)
    progress = Progress(start, (), state, session.engine.personal_heads, tuple(records))
    identity = identity_of(session)
    seconds = sum(record.seconds + record.evaluation_seconds for record in records)
    summary = summarise(session, start, records, wall_seconds=seconds, status="saved")
    summary |= {"final": test.accuracy, "rounds": state.round, "weights": identity["model"]["weights"]}
    models = session.method.models(state, session.federation)
    last = next(iter(models.values())) if len(models) == 1 else state.adapter
    folder.begin(session)
    with folder.locked():
        for record in records:
            folder.add_round(record)
        Checkpoints(folder.checkpoints, session.config.run.keep).save(progress.checkpoint(identity))
        session.model.write(last.tensors)
        folder.finish(session, summary, models)
