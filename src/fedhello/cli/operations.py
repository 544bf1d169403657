"""Commands for those who operate runs: backup and restoration."""

from pathlib import Path
from typing import Annotated

import typer

import fedhello as fh
from fedhello.cli.arguments import Run


def backup(run: Run, out: Annotated[Path, typer.Argument(metavar="OUT.tar", help="The file to write.")]) -> None:
    """Write a backup of a run's folder, also while the run goes on: its newest checkpoint and what belongs to it."""
    from fedhello.formatting import human_bytes

    made = fh.backup(run, out)
    size = human_bytes(sum(entry.bytes for entry in made.files.values()))
    print(f"wrote {out}: {run} after {made.round} rounds, {len(made.files)} files, {size}")
    print("it holds no keys and no data: keep those of the server and of each client by other ways")


def restore(
    archive: Annotated[Path, typer.Argument(metavar="OUT.tar", help="A backup.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, such as runs/mine.")],
) -> None:
    """Restore a backup as the folder of a run; every digest is checked."""
    found = fh.restore(archive, folder)
    on = "its results are there" if found.ended else f"go on: fedhello resume {folder}, or the server's same command"
    print(f"restored {folder}: {found.run} after {found.round} rounds; {on}")
