"""A run's folder: its files, each written completely or not at all.

config.yaml     the fully resolved configuration
clients.json    tier and label histogram of each client; of many clients clients.npz, as columns
data.json       digests of the data, to recognise them when the run is taken up again
plan.json       the planner's reasons and the start, for the run's page, see ``fedhello.report.plan_file``
rounds.jsonl    one object per finished round and per failed attempt
checkpoints/    to resume the run, see ``fedhello.runs.checkpoint``
summary.json    the result, see ``fedhello.runs.summary.summarise``
confusion.json  confusion matrices on the test data, see ``fedhello.runs.confusion``
adapter/        the PEFT adapter
heads/          each client's own head, only with the head policy ``local``
answers.jsonl   a language model's answers to test prompts, before and after training
models/         the models of a method with several models, one file each
report.html     the run's page, see ``fedhello.report.run_page``
log.txt         the log
.lock           the process that is writing
.lock.held      what the operating system locks for it
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from fedhello.data.digest import DataDigest
from fedhello.engine.protocol import Heads
from fedhello.errors import RunFolderError
from fedhello.model.saving import read_tensors, save_adapter
from fedhello.runs import confusion
from fedhello.runs.answers import Answers
from fedhello.runs.client_columns import columns_of, entries_of
from fedhello.runs.confusion import Confusion
from fedhello.runs.files import append_line, check_path, sync_folder, whole_lines, write_whole, writing
from fedhello.runs.formats import read_clients, read_data, read_round, write_clients, write_data, write_round
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary
from fedhello.session import ClientEntry, Session
from fedhello.types import Adapter

ENDING = ("summary.json", "report.html", "answers.jsonl", confusion.NAME, "adapter", "heads", "models")
"""Files of an ended run, in the order in which they are removed when the run is resumed."""


@dataclass
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder's path.
    """

    path: Path
    _lock: FileLock | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def adapter(self) -> Path:
        """Path of the PEFT adapter."""
        return self.path / "adapter"

    @property
    def report(self) -> Path:
        """Path of the report."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """Path of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def clients_file(self) -> Path:
        """Path of the list of clients, as columns or as JSON."""
        columns = self.path / "clients.npz"
        return columns if columns.is_file() else self.path / "clients.json"

    def begin(self, session: Session) -> None:
        """Create the folder with all files that exist before the first round; it appears completely or not at all.

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
            _write_clients(made, session.roster)
            _write_json(made / "data.json", write_data(session.digest))
            write_whole(made / "rounds.jsonl", "")
            write_whole(made / "log.txt", "")
            with writing(self.path):
                made.rename(self.path)
                sync_folder(self.path.parent)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock, so that no other process writes to it; the lock can be nested.

        The operating system releases the lock when the process ends.

        Raises:
            RunFolderError: If another process holds the lock.
        """
        if self._lock is not None:
            yield
            return
        self._lock = self._take_lock()
        try:
            yield
        finally:
            with suppress(OSError):  # who reads it finds this process, which holds nothing any more
                self._holder.write_text("", encoding="utf-8")
            self._lock.release()
            self._lock = None

    @property
    def _holder(self) -> Path:
        """Path of the file that says who holds the lock; apart from it, since a locked file may not be readable."""
        return self.path / ".lock"

    def _take_lock(self) -> FileLock:
        with writing(self.path):
            lock = FileLock(self.path / ".lock.held", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                said = f"expected nobody else to write to {self.path}; {self._held_by()} does"
                raise RunFolderError(f"{said}. Wait until it has ended, or end it.") from None
            # The process named in the file has died.
            self._holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
            return lock

    def _held_by(self) -> str:
        try:
            return self._holder.read_text(encoding="utf-8").strip() or "another process"
        except (OSError, UnicodeDecodeError):
            return "another process"

    def add_round(self, result: RoundRecord) -> None:
        """Append a finished round, or a failed attempt, to ``rounds.jsonl``.

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
        """Cut ``rounds.jsonl`` to its first lines, remove the files of an ended run, and return the lines' records.

        Raises:
            RunFolderError: If there are fewer lines, or one is not a round's record.
        """
        file = self.path / "rounds.jsonl"
        found = whole_lines(file)[:lines]
        if len(found) < lines:
            raise RunFolderError(
                f"expected the {lines} lines of {file} that the checkpoint belongs to; found {len(found)}. "
                "Restore the file, or start a new run."
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
        confused: Confusion | None = None,
    ) -> None:
        """Write what an ended run leads to, the summary last; the model must hold the final adapter.

        Args:
            session: The session of the run.
            summary: Its summary.
            models: The models that the run results in, by name; a single one is the adapter itself.
            heads: The clients' own heads, if heads are personal.
            answers: The answers of a language model.
            confused: The confusion matrices of a classifier.

        Raises:
            RunFolderError: If a file cannot be written.
        """
        session.model.guarantee = summary.guarantee
        with writing(self.adapter):
            save_adapter(session.model, self.adapter)
        for name, adapter in models.items() if len(models) > 1 else ():
            self._write_tensors(f"models/{name.replace(' ', '-')}", adapter.tensors)
        for k, head in (heads or {}).items():
            self._write_tensors(f"heads/client-{k}", head)
        if answers is not None:
            lines = [json.dumps(row, ensure_ascii=False) for row in answers.rows()]
            write_whole(self.path / "answers.jsonl", "\n".join(lines) + "\n")
        if confused is not None and confused.labels:
            _write_json(self.path / confusion.NAME, confused.to_dict())
        self.write_summary(summary)

    def write_summary(self, summary: Summary) -> None:
        """Write the summary alone.

        Raises:
            RunFolderError: If it cannot be written.
        """
        _write_json(self.path / "summary.json", summary.to_dict())

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        file = self.path / f"{name}.safetensors"
        with writing(file):
            file.parent.mkdir(exist_ok=True)
        # safetensors does not store one tensor twice, or a view of another.
        apart = {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
        write_whole(file, safetensors.torch.save(apart))

    def check(self) -> None:
        """Check that this is the folder of a run.

        Raises:
            RunFolderError: If it has no configuration.
        """
        if not (self.path / "config.yaml").is_file():
            raise RunFolderError(f"expected the folder of a run; {self.path} has no config.yaml. Check the path.")

    def write_config(self, text: str) -> None:
        """Write the configuration of the resumed run.

        Raises:
            RunFolderError: If it cannot be written.
        """
        write_whole(self.path / "config.yaml", text)

    def summary(self) -> Summary:
        """Read the summary.

        Raises:
            RunFolderError: If the run has not ended, or the file is not a summary.
        """
        file = self.path / "summary.json"
        if not file.is_file():
            raise RunFolderError(f"expected a run that has ended; {self.path} has no summary.json")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"expected JSON in {file}; {error}") from error
        return Summary.read(values)

    def rounds(self) -> list[RoundRecord]:
        """Return the records of the finished rounds, without failed attempts.

        Raises:
            RunFolderError: If a line is none of a round's.
        """
        return [record for record in self.records() if record.report.failed is None]

    def records(self) -> list[RoundRecord]:
        """Return the records of all rounds and failed attempts.

        Raises:
            RunFolderError: If a line is none of a round's.
        """
        file = self.path / "rounds.jsonl"
        return [read_round(line, f"{file}, line {i + 1}") for i, line in enumerate(whole_lines(file))]

    def clients(self) -> tuple[ClientEntry, ...]:
        """Return the entries of all clients, in ascending id.

        Raises:
            RunFolderError: If the file is missing or not valid.
        """
        file = self.clients_file
        try:
            if file.suffix == ".npz":
                return entries_of(file.read_bytes(), str(file))
            return read_clients(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"expected the list of clients in {file}; it cannot be read: {error}") from error

    def data(self) -> tuple[DataDigest, tuple[int, ...]] | None:
        """Return the digest of the run's data, and after how many rounds they changed; None of a run of 0.1.0.

        Raises:
            RunFolderError: If the file is not valid.
        """
        file = self.path / "data.json"
        try:
            return read_data(file.read_text(encoding="utf-8"), str(file)) if file.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"expected digests of data in {file}; it cannot be read: {error}") from error

    def write_data(self, data: DataDigest, changes: Sequence[int]) -> None:
        """Write the digest of the data that the run goes on with.

        Raises:
            RunFolderError: If it cannot be written.
        """
        _write_json(self.path / "data.json", write_data(data, changes))

    def labels(self) -> tuple[str, ...] | None:
        """Return the names of the run's classes; None if the folder of an unfinished run of 0.1.0 does not tell."""
        found = self.data()
        if found is not None:
            return found[0].labels
        if (self.path / "summary.json").is_file():
            return self.summary().labels
        rows = [entry.labels for entry in self.clients() if isinstance(entry.labels, Mapping)]
        return tuple(rows[0]) if rows else None

    def personal_heads(self) -> dict[int, dict[str, Tensor]]:
        """Return the clients' own heads; empty if heads are not personal.

        Raises:
            ModelError: If one cannot be read, or is not finite.
        """
        files = sorted((self.path / "heads").glob("client-*.safetensors"))
        return {int(file.stem.removeprefix("client-")): read_tensors(file) for file in files}

    def models(self) -> dict[str, dict[str, Tensor]]:
        """Return the models of a run with several, by name; empty if the adapter is the only model.

        Raises:
            ModelError: If one cannot be read, or is not finite.
        """
        files = sorted((self.path / "models").glob("*.safetensors"), key=lambda file: (len(file.stem), file.stem))
        return {file.stem: read_tensors(file) for file in files}


def choose(out: Path, name: str | None, method: str, seed: int) -> RunFolder:
    """Return the folder of a new run in ``out``: with its name, or a free one named after method and seed."""
    if name is not None:
        return RunFolder(out / name)
    name = f"{method}-seed{seed}"
    number = 1
    while (out / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return RunFolder(out / (name if number == 1 else f"{name}-{number}"))


def check_free(folder: RunFolder) -> None:
    """Check early that the folder can be created.

    Raises:
        RunFolderError: If it exists, cannot have this name, or its nearest existing parent cannot be written.
    """
    check_path(folder.path)
    if folder.path.exists():
        broken = (folder.path / "config.yaml").is_file() and not (folder.path / "summary.json").is_file()
        more = f" Or resume it: fedhello resume {folder.path}" if broken else ""
        raise RunFolderError(
            f"expected a new folder for this run; {folder.path} exists. Set another run.name, or remove it.{more}"
        )
    parent = folder.path.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise RunFolderError(f"expected to create {folder.path}; {parent} is not a folder that can be written")


def _write_clients(folder: Path, clients: Sequence[ClientEntry]) -> None:
    columns = columns_of(clients)
    if columns is None:
        _write_json(folder / "clients.json", write_clients(clients))
    else:
        write_whole(folder / "clients.npz", columns)


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")
