"""Commands that list methods, models and the machine."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import fedhello as fh
from fedhello.cli.arguments import Json


def methods(as_json: Json = False) -> None:
    """List the methods, their options and their papers."""
    rows: list[dict[str, Any]] = [
        {
            "name": method.name,
            "summary": method.summary,
            "allocates": method.allocates,
            "needs": method.needs,
            "options": {name: field.default for name, field in method.options.model_fields.items()},
            "paper": method.paper,
        }
        for method in fh.METHODS.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    columns = ("method", "what it does", "allocates", "needs of clients", "options (defaults)", "paper")
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        options = ", ".join(f"{name}: {value}" for name, value in row["options"].items())
        table.add_row(row["name"], row["summary"], row["allocates"], row["needs"], options, row["paper"])
    Console(markup=False).print(table)


def models(
    path: Annotated[str | None, typer.Option("--path", help="Print the folder of this model on this machine.")] = None,
    as_json: Json = False,
) -> None:
    """List the embedded models, whether they are installed, and what else can be loaded."""
    if path is not None:
        folder = str(fh.model_path(path))
        print(json.dumps({"name": path, "path": folder}) if as_json else folder)
        return
    rows = fh.models()
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        state = "installed" if row["installed"] else f"not installed: {row['install']}"
        print(f"{row['name']}  ({row['hub_id']}, {state})")
    print("or the path of a folder with config.json and weights, or a hub id: an encoder, a decoder or a vision model")


def doctor(as_json: Json = False) -> None:
    """Show what this machine offers, and whether the embedded demo can run."""
    facts = fh.doctor()
    if as_json:
        print(json.dumps(facts))
        return
    from fedhello.formatting import human_bytes

    memory = human_bytes(facts["memory_available_bytes"])
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    print(f"device {facts['device']}, {facts['threads']} threads, {memory} of memory available")
    for extra, present in facts["extras"].items():
        print(f"extra {extra}: " + ("installed" if present else f"missing; run: pip install 'fedhello[{extra}]'"))
