"""What this machine offers, and which embedded models can be installed."""

import importlib.metadata
import os
import re
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch

from fedhello import embedded
from fedhello.model.sources import EMBEDDED_MODELS, local_folder
from fedhello.runs.summarise import versions
from fedhello.setup.machine import available_memory
from fedhello.setup.model import choose_device


def models() -> list[dict[str, Any]]:
    """Return the embedded models: ``name``, ``hub_id``, ``installed``, how to ``install`` one, and its ``sha256``.

    Example:
        >>> [model["name"] for model in fh.models()]
        ['embedded:minilm', 'embedded:smollm2']
    """
    return [
        {
            "name": embedded.PREFIX + name,
            "hub_id": model.hub_id,
            "installed": model.is_installed,
            "install": model.install_command(),
            "sha256": model.sha256,
        }
        for name, model in EMBEDDED_MODELS.items()
    ]


def model_path(name: str) -> Path:
    """Return the folder of a model on this machine, which ``from_pretrained`` loads without a network.

    Args:
        name: ``embedded:…`` or its hub id, the path of a folder, or another hub id.

    Raises:
        MissingExtraError: If the package of an embedded model is not installed.
        ModelError: If the name is unknown, or the weights of an embedded model are not the expected ones.
        OutOfReachError: If a model on the hub is not in the hub's cache.

    Example:
        >>> (fh.model_path("embedded:minilm") / "config.json").is_file()
        True
    """
    return local_folder(name)


def doctor() -> dict[str, Any]:
    """Return what this machine offers.

    Returns:
        ``versions`` of the packages that a result depends on, the ``device`` of ``auto``, ``threads``,
        ``memory_bytes``, ``memory_available_bytes`` and ``disk_free_bytes``, ``extras`` (name → whether it is
        installed), and whether the hub's libraries are told to stay ``offline``.

    Example:
        >>> 0 < fh.doctor()["memory_available_bytes"] <= fh.doctor()["memory_bytes"]
        True
    """
    return {
        "versions": versions(),
        "device": choose_device("auto").type,
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_available_bytes": available_memory(),
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "extras": {extra: all(map(_installed, packages)) for extra, packages in _extras().items()},
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") == "1",
    }


def _extras() -> dict[str, list[str]]:
    """Return the packages of each extra, except the extras for developers."""
    extras: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("fedhello") or ():
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)", line)
        if package and extra and extra[1] not in ("test", "dev", "docs"):
            extras.setdefault(extra[1], []).append(package[0])
    return extras


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
