"""Digests of the model and data of a comparison, which its configuration does not identify."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedhello.comparison.runs import PlannedRun
from fedhello.config.schema import Config
from fedhello.config.settings import data_settings
from fedhello.data.dataset import Input, Picture
from fedhello.errors import DataError, RunFolderError
from fedhello.model.blocks import find_blocks
from fedhello.model.digest import digest_of
from fedhello.runs.files import write_whole
from fedhello.setup.data import data_digest, load_data, public_data, split_data
from fedhello.setup.model import Objects

FILE = "objects.json"
"""File with the digests of the objects of a comparison."""


def check_same(out: Path, base: Config, given: Objects) -> None:
    """Check that a comparison is continued with the same objects.

    Args:
        out: The comparison's folder.
        base: The configuration that all runs share.
        given: The objects.

    Raises:
        RunFolderError: If the objects differ.
    """
    if not (out / FILE).is_file():
        return
    there, here = json.loads((out / FILE).read_text(encoding="utf-8")), _fingerprints(base, given)
    changed = sorted(what for what in there.keys() & here.keys() if there[what] != here[what])
    if changed:
        raise RunFolderError(
            f"expected the {' and the '.join(changed)} in memory that {out} was made with, since finished runs are "
            "kept; found another. Choose another folder."
        )


def store(out: Path, base: Config, given: Objects) -> None:
    """Store the digests of the objects; nothing is stored if the comparison has none.

    Raises:
        RunFolderError: If the file cannot be written.
    """
    found = _fingerprints(base, given)
    if found:
        write_whole(out / FILE, json.dumps(found, indent=2) + "\n")


def check_data(runs: Sequence[PlannedRun], base: Config, given: Objects) -> None:
    """Check that kept runs were made with the data that there are now.

    Args:
        runs: The runs of a comparison.
        base: The configuration that they share.
        given: The objects.

    Raises:
        DataError: If the data of a run differ.
    """
    kept = [(run.folder, known[0]) for run in runs if run.before == "finished" and (known := run.folder.data())]
    if not kept:
        return
    settings = data_settings(base.data)
    data = load_data(settings, source=given.data)
    here = data_digest(data, split_data(settings, data), public_data(settings, data), with_train=True)
    for folder, there in kept:
        if other := there.changed(here):
            raise DataError(
                f"expected the data that {folder.path} was made with; found other data in {', '.join(other)}. Restore "
                "them, or give another out."
            )


def _fingerprints(base: Config, given: Objects) -> dict[str, str]:
    found = {} if given.model is None else {"model": _of_model(given.model)}
    return found if given.data is None else found | {"data": _of_data(base, given)}


def _of_model(model: Any) -> str:
    """Return a digest of the blocks; heads and poolers may be random each time that a model is loaded."""
    blocks = find_blocks(model)
    return digest_of((name, weight) for name, weight in model.named_parameters() if blocks.index(name) is not None)


def _of_data(base: Config, given: Objects) -> str:
    data = load_data(data_settings(base.data), source=given.data)
    digest = hashlib.sha256(repr((data.label_names, data.labels.tolist(), data.groups)).encode())
    for part, positions in sorted(data.parts.items()):
        digest.update(repr((part, positions.tolist())).encode())
    for sample in data.inputs:
        digest.update(_bytes_of(sample))
    return digest.hexdigest()


def _bytes_of(sample: Input) -> bytes:
    if isinstance(sample, Picture):
        return sample.digest
    return sample.tobytes() if isinstance(sample, np.ndarray) else repr(sample).encode()
