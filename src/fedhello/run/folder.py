"""A run's folder: what is in it, and how it gets there whole or not at all.

config.yaml     the fully resolved configuration
clients.json    tier and label histogram of each client
rounds.jsonl    one object per finished round, and per attempt that failed
summary.json    the result, see ``fedhello.run.summary.summarise``
adapter/        the PEFT adapter
heads/          each client's own head, with the head policy ``local`` only
answers.jsonl   a language model's answers to test prompts, before and after training
models/         the models of a method that leads to several, one file each
report.html     the pictures
log.txt         what was said
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from fedhello.errors import RunFolderError
from fedhello.run.answers import Answers
from fedhello.run.config import Config, dump_config, load_config
from fedhello.run.rounds import RoundResult
from fedhello.run.session import Session
from fedhello.types import Adapter


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    @property
    def adapter(self) -> Path:
        """Where the PEFT adapter is."""
        return self.path / "adapter"

    @property
    def report(self) -> Path:
        """Where the report is."""
        return self.path / "report.html"

    def begin(self, session: Session) -> None:
        """Create the folder and write what is known before the first round.

        Raises:
            RunFolderError: If it exists or cannot be written.
        """
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise RunFolderError(
                f"expected a new folder for this run; {self.path} exists. Give another run.name, or remove it."
            ) from None
        except OSError as error:
            raise RunFolderError(f"expected to create {self.path}; {error.strerror or error}") from error
        (self.path / "config.yaml").write_text(dump_config(session.config), encoding="utf-8")
        clients = [
            {
                "client": k,
                "tier": tier,
                "samples": sum(row),
                "labels": dict(zip(session.labels, row, strict=True)),
            }
            for k, (tier, row) in enumerate(zip(session.tier_of, session.histogram.tolist(), strict=True))
        ]
        _write_json(self.path / "clients.json", clients)
        (self.path / "rounds.jsonl").touch()
        (self.path / "log.txt").touch()

    def add_round(self, result: RoundResult) -> None:
        """Append a finished round, or an attempt that failed, to ``rounds.jsonl``, in one write."""
        entry = asdict(result)
        entry = entry.pop("record") | entry
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def log(self, line: str) -> None:
        """Append a line to ``log.txt``."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def finish(
        self,
        session: Session,
        summary: Mapping[str, Any],
        models: Mapping[str, Adapter],
        answers: Answers | None = None,
    ) -> None:
        """Write adapter, models, personal heads, answers and summary; the model must hold the final adapter.

        Args:
            session: The session.
            summary: The result.
            models: What the run leads to, by name; a single one is the adapter itself.
            answers: Of a language model.
        """
        session.model.save(self.adapter)
        for name, adapter in models.items() if len(models) > 1 else ():
            target = self.path / "models" / f"{name.replace(' ', '-')}.safetensors"
            target.parent.mkdir(exist_ok=True)
            # A file may not hold one tensor twice, nor a view into another.
            safetensors.torch.save_file({n: value.clone() for n, value in adapter.tensors.items()}, target)
        for k, head in (session.engine.personal_heads or {}).items():
            target = self.path / "heads" / f"client-{k}.safetensors"
            target.parent.mkdir(exist_ok=True)
            safetensors.torch.save_file(dict(head), target)
        if answers is not None:
            lines = [json.dumps(row, ensure_ascii=False) for row in answers.rows()]
            (self.path / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        _write_json(self.path / "summary.json", summary)

    def config(self) -> Config:
        """Read the configuration back.

        Raises:
            RunFolderError: If this is not the folder of a run.
        """
        if not (self.path / "config.yaml").is_file():
            raise RunFolderError(f"expected the folder of a run; {self.path} has no config.yaml")
        return load_config(self.path / "config.yaml")

    def summary(self) -> dict[str, Any]:
        """Read the summary.

        Raises:
            RunFolderError: If the run has not come to an end.
        """
        file = self.path / "summary.json"
        if not file.is_file():
            raise RunFolderError(f"expected a run that has ended; {self.path} has no summary.json")
        try:
            summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"expected JSON in {file}; {error}") from error
        return summary

    def rounds(self) -> list[dict[str, Any]]:
        """Read all finished rounds, without the attempts that failed."""
        text = (self.path / "rounds.jsonl").read_text(encoding="utf-8")
        return [entry for entry in map(json.loads, text.splitlines()) if entry.get("failed") is None]

    def personal_heads(self) -> dict[int, dict[str, Tensor]]:
        """Read the clients' own heads; empty where heads are not personal."""
        heads = {}
        for file in sorted((self.path / "heads").glob("client-*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                heads[int(file.stem.removeprefix("client-"))] = {
                    n: tensors.get_tensor(n)
                    for n in tensors.keys()  # noqa: SIM118 - not a dict
                }
        return heads


def choose(config: Config) -> RunFolder:
    """Return the folder for a new run: ``run.out``/``run.name``, or a free name made of method and seed."""
    out = Path(config.run.out)
    if config.run.name is not None:
        return RunFolder(out / config.run.name)
    name = f"{config.method.name}-seed{config.run.seed}"
    number = 1
    while (out / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return RunFolder(out / (name if number == 1 else f"{name}-{number}"))


def check_free(folder: RunFolder) -> None:
    """Check, before anything costly, that the folder can be made.

    Raises:
        RunFolderError: If it exists, or its nearest existing parent cannot be written.
    """
    if folder.path.exists():
        raise RunFolderError(
            f"expected a new folder for this run; {folder.path} exists. Give another run.name, or remove it."
        )
    parent = folder.path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(f"expected to create {folder.path}; {parent} is not a folder that can be written")


def _write_json(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
