"""Updates written wrongly, toy federations; real processes that can be killed, and what two runs must share."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from fedhello.client.settings import METRICS, TrainingSettings
from fedhello.engine.wire import Expected, decode, encode_tensors, encode_update, seal
from fedhello.types import Adapter, Budget, Client, Federation, Rejection, Update

NURSERY = Path(__file__).with_name("nursery.py")


class Processes:
    """Starts the command line in processes of its own, which are children of one that has imported everything."""

    def __init__(self):
        self._nursery = subprocess.Popen(
            [sys.executable, NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._ask({}) == "ready"

    def start(self, folder, *words, **more):
        """Start a command in a folder; return its process id. It writes to ``folder/out`` and ``folder/err``."""
        return int(self._ask({"folder": str(folder), "words": [str(word) for word in words], **more}))

    def wait(self, pid):
        """Wait for a command and return its exit code; −9 of one that was killed."""
        return int(self._ask({"wait": pid}))

    def call(self, folder, *words, **more):
        """Run a command to its end; return exit code, standard output and standard error."""
        code = self.wait(self.start(folder, *words, **more))
        encoding = more.get("encoding", "utf-8")
        out, err = (file.read_text(encoding) if file.exists() else "" for file in (folder / "out", folder / "err"))
        return code, out, err

    def kill(self, pid, number=signal.SIGKILL):
        os.kill(pid, number)
        return self.wait(pid)

    def close(self):
        self._nursery.stdin.close()
        self._nursery.wait(timeout=60)
        self._nursery.stdout.close()

    def _ask(self, question):
        self._nursery.stdin.write(json.dumps(question) + "\n")
        self._nursery.stdin.flush()
        return self._nursery.stdout.readline().strip()


@pytest.fixture(scope="session")
def processes():
    found = Processes()
    yield found
    found.close()


@pytest.fixture(scope="session")
def until():
    """Wait for a condition."""

    def wait(condition, seconds=60.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came to pass"
            time.sleep(0.001)

    return wait


def without_seconds(value):
    """Return a value without what differs from run to run: seconds, and what the system says of memory."""
    if isinstance(value, dict):
        return {
            key: without_seconds(inner)
            for key, inner in value.items()
            if "seconds" not in key and "per_second" not in key and "process_bytes" not in key
        }
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def outcome():
    """Return all of a run that must repeat: its tensors, its rounds and its figures."""

    def read(folder):
        files = [file for part in ("adapter", "heads", "models") for file in sorted((folder / part).glob("*"))]
        rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
        return (
            {str(file.relative_to(folder)): file.read_bytes() for file in files},
            [without_seconds(entry) for entry in rounds],
            without_seconds(json.loads((folder / "summary.json").read_text())),
        )

    return read


def furnish(place, workplace):
    for name in ("tiny.yaml", "texts.csv"):
        shutil.copy(workplace / name, place)
    shutil.copytree(workplace / "tiny", place / "tiny")


@pytest.fixture
def place(workplace, tmp_path):
    """A workplace that a test may change."""
    furnish(tmp_path, workplace)
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(processes, workplace, tmp_path_factory, outcome):
    """Outcomes of runs that nobody disturbs, by what they were started with; each is named r."""
    known = {}

    def run(*words):
        if words not in known:
            place = tmp_path_factory.mktemp("undisturbed")
            furnish(place, workplace)
            code, _, err = processes.call(place, "run", "tiny.yaml", *words)
            assert code == 0, err
            known[words] = outcome(place / "runs" / "r")
        return known[words]

    return run


SHORT = ("run.name=r", "train.rounds=3", "train.measure_memory=false")


@pytest.fixture
def broken(processes, place):
    """A run of three rounds, ``runs/r`` in its place, that was killed at the end of the third; its words."""
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *SHORT, dies_at="summary.json")) == -9
    assert not (place / "runs" / "r" / "summary.json").exists()
    return SHORT


class Letter:
    """An update as it should come, and ways to write it otherwise with a digest that fits."""

    tensors = MappingProxyType(
        {"a.lora_A.weight": torch.arange(6.0).reshape(2, 3) / 7, "b.lora_B.weight": torch.tensor([[1.0], [-2.0]])}
    )
    metrics = MappingProxyType(dict.fromkeys(METRICS, 1.0))
    update = Update(client=3, round=5, samples=40, tensors=tensors, metrics=metrics)
    expected = Expected(client=3, round=5, samples=40, tensors=tensors, run="this run")
    good = encode_update(update, "this run")

    def header(self, **changes):
        """The header as bytes, with some of its keys changed."""
        plain = {"run": "this run", "client": 3, "round": 5, "samples": 40, "metrics": dict(self.metrics)}
        return json.dumps(plain | changes).encode()

    def write(self, header=None, tensors=None):
        """Put it together; both parts may be bytes already."""
        tensors = self.tensors if tensors is None else tensors
        body = tensors if isinstance(tensors, bytes) else encode_tensors(tensors)
        return seal(self.header() if header is None else header, body)

    def write_entries(self, entries, values=b""):
        """Put it together with a hand-made header of safetensors: JSON as bytes."""
        return self.write(tensors=struct.pack("<Q", len(entries)) + entries + values)

    def reason(self, payload, **changes):
        """Why it is refused; None where it is not."""
        found = decode(payload, replace(self.expected, **changes))
        return found.reason if isinstance(found, Rejection) else None

    def detail(self, payload, **changes):
        return decode(payload, replace(self.expected, **changes)).detail


@pytest.fixture(scope="session")
def letter():
    found = Letter()
    assert found.reason(found.good) is None
    assert found.reason(found.write()) is None, "what is written by hand is right when nothing is changed"
    return found


@pytest.fixture(scope="session")
def toy():
    """A federation of clients that all train everything: two blocks of two numbers each, and no head."""

    def build(clients=5, **changes):
        budget = Budget(blocks=2, rank=2)
        everyone = tuple(Client(k, 0, budget, samples=10, classes=(0, 1)) for k in range(clients))
        plain = {"clients_per_round": clients, "seed": 0} | changes
        adapter = Adapter({"0.lora_A.weight": torch.zeros(1, 2), "1.lora_A.weight": torch.ones(1, 2)}, {})
        adapter = replace(adapter, block_of={name: int(name[0]) for name in adapter.tensors})
        return Federation(everyone, (budget,), num_blocks=2, **plain), adapter

    return build


@pytest.fixture(scope="session")
def local_settings():
    """How clients of a tiny model train."""
    return TrainingSettings(
        rounds=4, epochs=2, batch_size=4, optimizer="adamw", lr=1e-2, lr_schedule="constant", lr_decay=1.0,
        weight_decay=0.0, momentum=0.0, loss="cross_entropy", autocast="none",
    )  # fmt: skip
