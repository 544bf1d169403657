"""Forget clients: solve the head of a finished run again, exactly as if they had never taken part.

A total of head statistics is a sum of integers over clients (``fedhello.model.statistics``). Subtracting some clients'
sums gives, bit for bit, the total without them, and the same holds for the head solved from it. This requires that only
the head depends on the clients (``head-only``) and that sums are integers (all moments except ``means``). It is exact
unlearning of the clients' samples in the head; the folder still records that the clients took part, and the earlier
accuracies.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedhello.config.schema import Config
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.runs.checkpoint import Checkpoint, Checkpoints
from fedhello.runs.confusion import Confusion, read_confusion
from fedhello.runs.folder import RunFolder
from fedhello.runs.heads import head_without
from fedhello.runs.loop import domain_scores, evaluate_adapter
from fedhello.runs.progress import changed_data, check_same
from fedhello.runs.summary import HeadSummary, Summary
from fedhello.session import Session

METHOD = "head-only"


def forget(
    folder: RunFolder, clients: Sequence[int], warn: Callable[[str], None], prepared: Callable[[], Session]
) -> Summary:
    """Remove clients from a finished run's head, and update adapter, summary and checkpoint.

    The checkpoint is written first and the summary last, each completely or not at all; after an interruption the same
    call completes the work.

    Args:
        folder: The run's folder.
        clients: The ids of the clients, at least one.
        warn: Called with a message on a damaged checkpoint.
        prepared: Returns the session of the run.

    Returns:
        The new summary; its ``forgotten`` lists the clients.

    Raises:
        ConfigError: If the run is of another kind, or a client is not in the run or forgotten already.
        DataError: If a class has no sample on any remaining client; nothing has changed then.
        RunFolderError: If the run has not finished, has changed, or cannot be written.
    """
    with folder.locked():
        config, summary = stored_config(folder.path), folder.summary()
        _check_kind(config, summary, folder)
        _check_clients(folder, clients, summary)
        session = prepared()
        found = _checkpoint(session, folder, summary, warn)
        state, change = head_without(session, found.state, clients)
        _, test = evaluate_adapter(session, state.adapter)
        named = ", ".join(map(str, state.forgotten))
        old = read_confusion(folder.path)
        confusion = Confusion(None if old is None else old.before, test.confusion)
        before = () if summary.head is None else summary.head.changes
        summary = summary.but(
            forgotten=state.forgotten,
            final=test.accuracy,
            final_scores=test,
            domains=domain_scores(session, state),
            head=HeadSummary(policy=config.model.head, changes=(*before, change)),
            notes=(
                *summary.notes,
                f"the head is solved without the samples of clients {named}; start, mean_last_5 and "
                "best_on_validation, like rounds.jsonl, are of the head before",
            ),
        )
        # All earlier checkpoints, which hold the sums of all clients, are removed.
        replace(Checkpoints(folder.checkpoints), keep=1).save(replace(found, state=state))
        session.model.write(state.adapter.tensors)
        folder.finish(session, summary, {}, confused=confusion)
        folder.log(f"forgotten: clients {named}; test {test.accuracy:.3f}")
    return summary


def _check_kind(config: Config, summary: Summary, folder: RunFolder) -> None:
    """Check that the run depends on its clients only by sums that can be subtracted."""
    if config.run.engine == "flower":
        raise ConfigError(
            "expected a run on this machine, since a client's sums are computed again and subtracted; found a run over "
            "a network. Start a new run without the client."
        )
    if config.method.name != METHOD:
        raise ConfigError(
            f"expected a run of {METHOD}, since the effect of a client's training cannot be removed; found "
            f"{config.method.name}. Start a new run without the client."
        )
    if config.model.head != "solved":
        raise ConfigError(
            f"expected a run with model.head: solved, whose head is solved from sums; found {config.model.head}. Start "
            "a new run without the client."
        )
    if config.privacy.epsilon is not None:
        raise ConfigError(
            "expected sums without noise, from which a client's can be subtracted; found privacy.epsilon="
            f"{config.privacy.epsilon:g}. Start a new run without the client; what both release adds up."
        )
    if config.model.moments == "means":
        raise ConfigError(
            "expected sums of integers, so that the remaining sums are exact; found model.moments: means, whose "
            "products of class means are rounded. Start a new run without the client."
        )
    if summary.status != "finished":
        raise RunFolderError(
            f"expected a finished run; {folder.path} is {summary.status}. Resume it first: fedhello resume "
            f"{folder.path}"
        )


def _check_clients(folder: RunFolder, clients: Sequence[int], summary: Summary) -> None:
    """Check that all ids are clients of the run that are not forgotten yet."""
    known = [entry.client for entry in folder.clients()]
    unknown = sorted(set(clients) - set(known))
    if unknown:
        raise ConfigError(f"expected clients of the run, {known[0]} to {known[-1]}; found {unknown[0]}")
    gone = [k for k in clients if k in summary.forgotten]
    if gone:
        raise ConfigError(f"expected a client that is not forgotten yet; client {gone[0]} is")


def _checkpoint(session: Session, folder: RunFolder, summary: Summary, warn: Callable[[str], None]) -> Checkpoint:
    """Return the run's last checkpoint, which must belong to these clients, this model and this machine."""
    found = Checkpoints(folder.checkpoints).latest(warn)
    if found is None or found.state.round != summary.rounds or not found.state.head_sums:
        raise RunFolderError(
            f"expected the last checkpoint of {folder.path}, which holds the sums of all clients; found none. Start a "
            "new run without the client."
        )
    known = folder.data()
    differing = [*check_same(found.identity, session, folder), *changed_data(session, folder)]
    if known is not None and known[1]:
        differing.append(f"the run went on with other data after round {known[1][0]}")
    if differing:
        raise RunFolderError(
            "expected the machine, the clients and the data of the run, so that exactly the added sums are subtracted; "
            f"{differing[0]}. Forget on that machine, or start a new run without the client."
        )
    return found
