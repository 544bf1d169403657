"""A run's folder: what is in it, and how it gets there whole or not at all.

config.yaml     the fully resolved configuration
clients.json    tier and label histogram of each client
rounds.jsonl    one object per finished round, and per attempt that failed
checkpoints/    what the run goes on from, see ``fedhello.runs.checkpoint``
summary.json    the result, see ``fedhello.runs.summary.summarise``
adapter/        the PEFT adapter
heads/          each client's own head, with the head policy ``local`` only
answers.jsonl   a language model's answers to test prompts, before and after training
models/         the models of a method that leads to several, one file each
report.html     the pictures
log.txt         what was said
.lock           who writes here, while somebody does
"""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from fedhello.engine.protocol import Heads
from fedhello.errors import RunFolderError
from fedhello.model.saving import read_tensors, save_adapter
from fedhello.runs.answers import Answers
from fedhello.runs.files import append_line, sync_folder, whole_lines, write_whole, writing
from fedhello.runs.formats import read_clients, read_round, write_clients, write_round
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary
from fedhello.session import ClientEntry, Session
from fedhello.types import Adapter

ENDING = ("summary.json", "report.html", "answers.jsonl", "adapter", "heads", "models")
"""What is there of a run that has ended, the first to go where it goes on."""


@dataclass
class RunFolder:
    """The folder of one run.

    Attributes:
        path: Where.
    """

    path: Path
    _lock: IO[str] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def adapter(self) -> Path:
        """Where the PEFT adapter is."""
        return self.path / "adapter"

    @property
    def report(self) -> Path:
        """Where the report is."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    def begin(self, session: Session) -> None:
        """Make the folder with what is known before the first round; it appears whole.

        Raises:
            RunFolderError: If it exists or cannot be written.
        """
        check_free(self)
        made = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with writing(self.path):
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
        try:
            write_whole(made / "config.yaml", session.config_yaml)
            _write_json(made / "clients.json", write_clients(session.roster))
            write_whole(made / "rounds.jsonl", "")
            write_whole(made / "log.txt", "")
            with writing(self.path):
                made.rename(self.path)
                sync_folder(self.path.parent)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing here; what holds the lock already may ask again.

        The operating system lets go of it when the process ends, however that happens.

        Raises:
            RunFolderError: If another process writes here.
        """
        if self._lock is not None:
            yield
            return
        self._lock = self._take_lock()
        try:
            yield
        finally:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> IO[str]:
        with writing(self.path):
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
            try:
                # lockf would let go as soon as this process closed the file elsewhere, after a mere look at it.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                lock.close()
                raise RunFolderError(
                    f"expected nobody else to write to {self.path}; {holder} does. Wait until it has ended, or end it."
                ) from None
            # Whoever stands there has died without a word.
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            lock.flush()
            return lock

    def add_round(self, result: RoundRecord) -> None:
        """Append a finished round, or an attempt that failed, to ``rounds.jsonl``.

        Raises:
            RunFolderError: If it cannot be written.
        """
        append_line(self.path / "rounds.jsonl", json.dumps(write_round(result)))

    def log(self, line: str) -> None:
        """Append a line to ``log.txt``.

        Raises:
            RunFolderError: If it cannot be written.
        """
        with writing(self.path / "log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def rewind(self, lines: int) -> list[RoundRecord]:
        """Go back to the first lines of ``rounds.jsonl``, without what a run leaves when it ends, and return them.

        Raises:
            RunFolderError: If there are fewer, or one is none of a round's.
        """
        file = self.path / "rounds.jsonl"
        found = whole_lines(file)[:lines]
        if len(found) < lines:
            raise RunFolderError(
                f"expected the {lines} lines of {file} that the checkpoint belongs to; found {len(found)}. "
                "Put the file back as it was, or start the run anew."
            )
        results = [read_round(line, f"{file}, line {i + 1}") for i, line in enumerate(found)]
        with writing(self.path):
            for name in ENDING:
                ended = self.path / name
                shutil.rmtree(ended) if ended.is_dir() else ended.unlink(missing_ok=True)
        write_whole(file, "".join(f"{line}\n" for line in found))
        return results

    def finish(
        self,
        session: Session,
        summary: Summary,
        models: Mapping[str, Adapter],
        heads: Heads | None = None,
        answers: Answers | None = None,
    ) -> None:
        """Write adapter, models, personal heads, answers and summary; the model must hold the final adapter.

        Args:
            session: The session.
            summary: The result.
            models: What the run leads to, by name; a single one is the adapter itself.
            heads: The clients' own, where heads are personal.
            answers: Of a language model.

        Raises:
            RunFolderError: If something cannot be written.
        """
        with writing(self.adapter):
            save_adapter(session.model, self.adapter)
        for name, adapter in models.items() if len(models) > 1 else ():
            self._write_tensors(f"models/{name.replace(' ', '-')}", adapter.tensors)
        for k, head in (heads or {}).items():
            self._write_tensors(f"heads/client-{k}", head)
        if answers is not None:
            lines = [json.dumps(row, ensure_ascii=False) for row in answers.rows()]
            write_whole(self.path / "answers.jsonl", "\n".join(lines) + "\n")
        _write_json(self.path / "summary.json", summary.to_dict())

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        file = self.path / f"{name}.safetensors"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
        # A file may not hold one tensor twice, nor a view into another.
        apart = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        write_whole(file, safetensors.torch.save(apart))

    def check(self) -> None:
        """Check that this is the folder of a run.

        Raises:
            RunFolderError: If it has no configuration.
        """
        if not (self.path / "config.yaml").is_file():
            raise RunFolderError(f"expected the folder of a run; {self.path} has no config.yaml")

    def write_config(self, text: str) -> None:
        """Write the configuration that the run goes on with.

        Raises:
            RunFolderError: If it cannot be written.
        """
        write_whole(self.path / "config.yaml", text)

    def summary(self) -> Summary:
        """Read the summary.

        Raises:
            RunFolderError: If the run has not come to an end, or the file holds no summary.
        """
        file = self.path / "summary.json"
        if not file.is_file():
            raise RunFolderError(f"expected a run that has ended; {self.path} has no summary.json")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"expected JSON in {file}; {error}") from error
        return Summary.read(values)

    def rounds(self) -> list[dict[str, Any]]:
        """Read all finished rounds, without the attempts that failed, as the file has them.

        Raises:
            RunFolderError: If a line is none of a round's.
        """
        lines = zip(whole_lines(self.path / "rounds.jsonl"), self.records(), strict=True)
        return [json.loads(line) for line, record in lines if record.report.failed is None]

    def records(self) -> list[RoundRecord]:
        """Read what every round, and every attempt that failed, came to.

        Raises:
            RunFolderError: If a line is none of a round's.
        """
        file = self.path / "rounds.jsonl"
        return [read_round(line, f"{file}, line {i + 1}") for i, line in enumerate(whole_lines(file))]

    def clients(self) -> tuple[ClientEntry, ...]:
        """Read who takes part, in ascending id.

        Raises:
            RunFolderError: If the file is missing, or does not say it.
        """
        file = self.path / "clients.json"
        try:
            return read_clients(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"expected who takes part in {file}; it cannot be read: {error}") from error

    def personal_heads(self) -> dict[int, dict[str, Tensor]]:
        """Read the clients' own heads; empty where heads are not personal.

        Raises:
            ModelError: If one cannot be read, or is not finite.
        """
        files = sorted((self.path / "heads").glob("client-*.safetensors"))
        return {int(file.stem.removeprefix("client-")): read_tensors(file) for file in files}

    def models(self) -> dict[str, dict[str, Tensor]]:
        """Read the models of a run that leads to several, by name; empty where the adapter is the only one.

        Raises:
            ModelError: If one cannot be read, or is not finite.
        """
        files = sorted((self.path / "models").glob("*.safetensors"), key=lambda file: (len(file.stem), file.stem))
        return {file.stem: read_tensors(file) for file in files}


def choose(out: Path, name: str | None, method: str, seed: int) -> RunFolder:
    """Return the folder for a new run within another: that of its name, or a free one made of method and seed."""
    if name is not None:
        return RunFolder(out / name)
    name = f"{method}-seed{seed}"
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
        broken = (folder.path / "config.yaml").is_file() and not (folder.path / "summary.json").is_file()
        more = f" Or go on with it: fedhello resume {folder.path}" if broken else ""
        raise RunFolderError(
            f"expected a new folder for this run; {folder.path} exists. Give another run.name, or remove it.{more}"
        )
    parent = folder.path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(f"expected to create {folder.path}; {parent} is not a folder that can be written")


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")
