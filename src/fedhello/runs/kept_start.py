"""What a run's last checkpoint keeps of the adapter that the run started from (``model.adapter``)."""

from pathlib import Path

from fedhello.model.start import Start
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.folder import RunFolder


def kept_start(folder: RunFolder, name: str | None, policy: str) -> Start | None:
    """Return what stands in for an adapter that is not there any more, since a checkpoint has all its values.

    An adapter that is there is read again, so that it is compared with that which the run started from.

    Args:
        folder: The run's.
        name: ``model.adapter``.
        policy: ``model.head``. Of personal heads a checkpoint has those that have trained, and not the first one.

    Returns:
        None where the adapter has to be read, or no checkpoint knows it.

    Raises:
        RunFolderError: If all checkpoints are damaged.
    """
    if name is None or policy == "local" or Path(name).exists():
        return None
    found = Checkpoints(folder.checkpoints).latest(lambda line: None)  # what is damaged is said where the run goes on
    digest = None if found is None else found.identity["model"].get("start")
    if found is None or digest is None or "start" not in found.identity:  # which earlier versions did not write
        return None
    note = f"the adapter in {name} is not there any more; the run goes on from its checkpoint (model.adapter)"
    return Start(found.identity["start"]["head"], digest, (note,))
