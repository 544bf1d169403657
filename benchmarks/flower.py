"""What Flower costs: real processes on this machine, a MiniLM adapter and some clients of the embedded demo.

    python benchmarks/flower.py [--rounds 6] [--clients 3] [--memory-only] [key=value …]

Prints JSON: seconds of a round beyond its longest training (``overhead_seconds``); bytes that all clients sent over TCP
per byte of payload, polls and heartbeats included (``wire_per_payload``); ``back_seconds`` until a round has ended with
all clients, from when the server was killed (``kill -9``) and started again, and a client likewise, and until a
round has ended at all, from when a client's training process was stopped for good; and the memory that the engine takes
for 10 and for 100 updates of 10 MB (``memory_bytes``), which must not grow with them. Further arguments override the
configuration: ``method.name=full`` lets everybody send the whole adapter. Needs the extra ``flower``.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch

from fedhello.client.memory import ProcessPeak, return_memory_at_once
from fedhello.client.settings import ALWAYS_MEASURED, TrainingSettings
from fedhello.engine.wire import encode_update
from fedhello.network.engine import RemoteEngine
from fedhello.network.registry import ClientInfo, ClientRegistry, DeclaredBudget
from fedhello.runs.summarise import versions
from fedhello.types import Adapter, Allocation, Budget, Client, Federation, Task, Update

NAME = "network"


class Proxy:
    """Passes TCP connections on, and counts the bytes that clients send."""

    def __init__(self, target: int) -> None:
        self.sent = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(2**16):
                self.sent += len(data) * counted
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            one.close()


class Run:
    """A server and its clients."""

    def __init__(self, folder: Path, overrides: list[str], clients: int = 3) -> None:
        self.folder, self.size = folder, clients
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.proxy = Proxy(self.port)
        self.words = [
            f"data.clients={clients}", f"train.clients_per_round={clients}", "train.rounds=1000", f"run.name={NAME}",
            "run.wait=1800", *overrides,
        ]  # fmt: skip
        self.server = self.start_server()
        self.clients = [self.start_client(k) for k in range(clients)]

    def start_server(self) -> "subprocess.Popen[bytes]":
        """Start the server, or start it again."""
        return self._start("server", *self.words, "--port", str(self.port), "--quiet")

    def start_client(self, k: int) -> "subprocess.Popen[bytes]":
        """Start a client, or start it again."""
        return self._start("client", "--server", f"127.0.0.1:{self.proxy.port}", "--part", str(k))

    def _start(self, *words: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fedhello.cli.main", *words], cwd=self.folder, stdout=log, stderr=log
            )

    def rounds(self) -> list[dict]:
        """Read the rounds that have ended."""
        file = self.folder / "runs" / NAME / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def wait_for(self, clients: int, rounds: int = 1) -> float:
        """Wait for so many more rounds with updates of at least so many clients; return the seconds that took."""
        begin, done = time.monotonic(), len(self.rounds())
        while sum(len(entry["clients"]) >= clients for entry in self.rounds()[done:]) < rounds:
            if self.server.poll() is not None:
                raise SystemExit(f"the server ended: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        return time.monotonic() - begin

    def close(self) -> None:
        """End everything."""
        for process in (self.server, *self.clients):
            process.terminate()
            process.wait(timeout=60)


def real_run(rounds: int, overrides: list[str], clients: int) -> dict:
    """Measure rounds; then kill the server, kill a client, and stop a client, each once."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), overrides, clients)
        try:
            run.wait_for(clients)
            before, first = run.proxy.sent, len(run.rounds())
            run.wait_for(clients, rounds)
            sent, quiet = run.proxy.sent - before, run.rounds()[first:]
            back = {"server killed": after_kill_of_server(run)}
            back["client killed"] = after_kill_of_client(run)
            back["client hung"] = after_hang(run)
            played = run.rounds()
        finally:
            run.close()
    payload = sum(client["bytes_up"] for entry in quiet for client in entry["clients"])
    beyond = [entry["seconds"] - max(c["metrics"]["seconds"] for c in entry["clients"]) for entry in quiet]
    return {
        "overhead_seconds": {"median": statistics.median(beyond), "largest": max(beyond)},
        "round_seconds": statistics.median(entry["seconds"] for entry in quiet),
        "wire_per_payload": sent / payload,
        "payload_bytes_per_client": payload / len(quiet) / clients,
        "wire_bytes_beyond_per_client": (sent - payload) / len(quiet) / clients,
        "back_seconds": back,
        "no_round_twice": [entry["round"] for entry in played] == list(range(len(played))),
        "clients_per_round": [len(entry["clients"]) for entry in played],
    }


def after_kill_of_server(run: Run) -> float:
    """Kill the server, start it again; return the seconds until a round has ended with all clients."""
    run.server.kill()
    run.server.wait()
    run.server = run.start_server()
    return run.wait_for(run.size)


def after_kill_of_client(run: Run) -> float:
    """Kill a client, start it again; return the seconds until a round has ended with all clients."""
    run.clients[1].kill()
    run.clients[1].wait()
    run.clients[1] = run.start_client(1)
    return run.wait_for(run.size)


def after_hang(run: Run) -> float:
    """Stop a client's training process; return the seconds until a round has ended without it."""
    worker = next(c for c in psutil.Process(run.clients[2].pid).children() if "fedhello.network.client" in c.cmdline())
    worker.suspend()
    try:
        return run.wait_for(run.size - 1)
    finally:
        worker.resume()


class EndlessLink:
    """Clients that answer at once with updates that are made when they are asked for."""

    def __init__(self, names: list[str], shape: tuple[int, int]) -> None:
        self.names, self.shape = names, shape
        self.tasks: dict[str, dict] = {}

    def nodes(self) -> frozenset[int]:
        """Return a node per client."""
        return frozenset(range(1, 1 + len(self.names)))

    def send(self, node: int, kind: str, fields: dict, group: str = "") -> str:
        """Remember what is asked for."""
        self.tasks[str(node)] = {key: fields.get(key) for key in ("client", "run")}
        return str(node)

    def reply(self, message_id: str) -> dict:
        """Make an update."""
        asked = self.tasks[message_id]
        value = torch.rand(self.shape, generator=torch.Generator().manual_seed(int(message_id)))
        metrics = dict.fromkeys(ALWAYS_MEASURED, 1.0)
        return {"update": encode_update(Update(asked["client"], 0, 5, {"x": value}, metrics), asked["run"])}


def memory_of(clients: int) -> int | None:
    """Return how far resident memory rises while so many updates of 10 MB are taken in."""
    shape = (2500, 1000)
    adapter = Adapter({"x": torch.zeros(shape)}, {"x": 0})
    budget = Budget(blocks=1)
    everyone = tuple(Client(k, 0, budget, samples=5) for k in range(clients))
    world = Federation(everyone, (budget,), 1, clients, 0, quorum=1)
    facts = [
        ClientInfo(
            name=f"c{k}", samples=5, widest=(1, 1), batches=((1, 1, 1),), budget=DeclaredBudget(blocks=1), busy=0.0
        )
        for k in range(clients)
    ]
    settings = TrainingSettings(1, 1, 1, "sgd", 0.1, "constant", 1.0, 0.0, 0.0, "cross_entropy", "none")
    link = EndlessLink([member.name for member in facts], shape)
    engine = RemoteEngine(link, world, facts, settings, "r", ClientRegistry(link, {}, 2))
    engine.lobby.connected = link.nodes()
    engine.lobby._looked = float("inf")
    engine.node_of = {k: k + 1 for k in range(clients)}
    with ProcessPeak(torch.device("cpu")) as memory:
        for update in engine.train(Task(k, 0, Allocation((0,)), adapter) for k in range(clients)):
            assert isinstance(update, Update), update
    return memory.peak_bytes


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--memory-only", action="store_true")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    return_memory_at_once()
    memory_of(3)  # the first tensors and files of a process take some
    found = {"memory_bytes": {str(clients): memory_of(clients) for clients in (10, 100)}, "update_bytes": 10**7}
    if not arguments.memory_only:
        found |= real_run(arguments.rounds, arguments.overrides, arguments.clients)
    print(json.dumps({**found, "cpus": os.cpu_count(), "load": os.getloadavg(), "versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
