"""What a server finds of a run that it takes up again: whether it can, its labels, and who takes part."""

import json
from collections.abc import Mapping
from typing import Any

from fedhello.config.schema import Config
from fedhello.config.stored import Resumed, end_of, first_rate, going_on, stored_config
from fedhello.errors import RunFolderError
from fedhello.model.start import Start
from fedhello.network.registry import ClientInfo, count_shapes
from fedhello.runs.folder import RunFolder
from fedhello.runs.going_on import has_ended
from fedhello.runs.kept_start import kept_start


def checked(folder: RunFolder, config: Config) -> Resumed:
    """Check that a run can start or go on in a folder; return how it does.

    A server's configuration states all that is to hold, so its learning rate is asked for, also where it is the first.
    """
    if not folder.clients_file.is_file():
        return Resumed(config)
    before = stored_config(folder.path)
    if has_ended(folder, end_of(before), end_of(config)):
        raise RunFolderError(
            f"expected a run that has not finished; {folder.path} has. Give another run.name, or a larger number of "
            "train.rounds, to add rounds to it, or other train.stop and train.target, if these ended it."
        )
    return going_on(folder.path, before, config)._replace(lr=first_rate(config))


def known_start(folder: RunFolder, config: Config) -> Start | None:
    """Return what stands in for ``model.adapter`` of a run that is resumed, if it is not there any more."""
    if not folder.clients_file.is_file():
        return None
    return kept_start(folder, config.model.adapter, config.model.head)


def known_labels(folder: RunFolder) -> tuple[str, ...] | None:
    """Return the names of the classes of a run that is resumed; None for a new run."""
    return folder.labels() if folder.clients_file.is_file() else None


def known_roster(folder: RunFolder) -> tuple[ClientInfo, ...]:
    """Return the clients of a resumed run, by id; empty for a new run."""
    if not folder.clients_file.is_file():
        return ()
    try:
        return tuple(ClientInfo.model_validate_json(json.dumps(_counted(entry.facts))) for entry in folder.clients())
    except ValueError as error:
        raise RunFolderError(
            f"expected the folder of a run with Flower; {folder.path} does not say who takes part: {error!r}"
        ) from error


def _counted(facts: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a client's facts with its batches counted by shape; before version 3 of the messages they were listed."""
    if facts is None or any(len(batch) != 2 for batch in facts.get("batches", [[]])):
        return facts
    return {**facts, "batches": count_shapes((b, T) for b, T in facts["batches"])}
