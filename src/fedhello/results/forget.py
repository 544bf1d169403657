"""Forget clients: a solved head of a finished run as it would be if they had never taken part.

A total of head statistics is a sum over clients, as integers (``fedhello.model.statistics``). What is left of it
without some clients' sums is, to the last bit, what there would be without them, and so is the head solved from it.
That holds where nothing but the head depends on the clients (``head-only``) and where sums add as integers (all moments
but ``means``). This is exact unlearning of what the clients' samples are to the head; that the clients took part, and
how accurate the head was with them, stays in the folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from fedhello.config.schema import Config
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.runs.checkpoint import Checkpoint, Checkpoints
from fedhello.runs.folder import RunFolder
from fedhello.runs.heads import head_without
from fedhello.runs.loop import domain_scores, evaluate_adapter
from fedhello.runs.progress import check_same
from fedhello.runs.summary import HeadSummary, Summary
from fedhello.session import Session

METHOD = "head-only"


def forget(
    folder: RunFolder, clients: Sequence[int], warn: Callable[[str], None], prepared: Callable[[], Session]
) -> Summary:
    """Take clients out of a finished run's head: adapter, summary and checkpoint are those without their samples.

    The checkpoint comes first and the summary last, each whole or not at all: what was stopped in between is done by
    the same call again.

    Args:
        folder: Of the run.
        clients: Their ids, at least one.
        warn: Is told of a damaged checkpoint.
        prepared: Returns the session of the run.

    Returns:
        The new summary: its ``forgotten`` lists them.

    Raises:
        ConfigError: If the run is of another kind, a client is none of its clients, or forgotten already.
        DataError: If a class has no sample on any client that is left; nothing has changed then.
        RunFolderError: If the run has not finished, is not what it was, or cannot be written.
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
        # With the last checkpoint all earlier ones go, which hold the sums of everybody.
        replace(Checkpoints(folder.checkpoints), keep=1).save(replace(found, state=state))
        session.model.write(state.adapter.tensors)
        folder.finish(session, summary, {})
        folder.log(f"forgotten: clients {named}; test {test.accuracy:.3f}")
    return summary


def _check_kind(config: Config, summary: Summary, folder: RunFolder) -> None:
    """Check that what clients are to a run is a sum that can be taken away again."""
    if config.run.engine == "flower":
        raise ConfigError(
            "expected a run on this machine, since a client's sums are computed again to be taken away; found one over "
            "a network, whose clients have gone. Run it anew without the client."
        )
    if config.method.name != METHOD:
        raise ConfigError(
            f"expected a run of {METHOD}, since what a client has changed by training cannot be taken away; found "
            f"{config.method.name}. Run it anew without the client."
        )
    if config.model.head != "solved":
        raise ConfigError(
            f"expected a run with model.head: solved, whose head is made of sums; found {config.model.head}. Run it "
            "anew without the client."
        )
    if config.model.moments == "means":
        raise ConfigError(
            "expected sums that add as integers, so that what is left is exact; found model.moments: means, whose "
            "products of class means are rounded. Run it anew without the client."
        )
    if summary.status != "finished":
        raise RunFolderError(
            f"expected a finished run; {folder.path} is {summary.status}. Go on with it first: fedhello resume "
            f"{folder.path}"
        )


def _check_clients(folder: RunFolder, clients: Sequence[int], summary: Summary) -> None:
    """Check that all are clients of the run that are not forgotten yet."""
    known = [entry.client for entry in folder.clients()]
    unknown = [k for k in clients if k not in known]
    if unknown:
        raise ConfigError(
            f"expected --client to be one of the run's clients, {known[0]} to {known[-1]}; found {unknown[0]}"
        )
    gone = [k for k in clients if k in summary.forgotten]
    if gone:
        raise ConfigError(f"expected a client that is not forgotten yet; client {gone[0]} is")


def _checkpoint(session: Session, folder: RunFolder, summary: Summary, warn: Callable[[str], None]) -> Checkpoint:
    """Return the run's last checkpoint, which must be of these clients, this model and this machine."""
    found = Checkpoints(folder.checkpoints).latest(warn)
    if found is None or found.state.round != summary.rounds or not found.state.head_sums:
        raise RunFolderError(
            f"expected the last checkpoint of {folder.path}, which holds the sums of all clients; found none. Run it "
            "anew without the client."
        )
    differing = check_same(found.identity, session, folder)
    if differing:
        raise RunFolderError(
            "expected the machine, the clients and the data of the run, since only then are the sums that are taken "
            f"away those that were added; {differing[0]}. Forget there, or run anew without the client."
        )
    return found
