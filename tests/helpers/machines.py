"""Server and clients as real processes on this machine, each in a group of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil

CONFIG = """
model: {name: ./tiny, lora: {rank: 4, alpha: 4}}
data: {name: texts.csv, clients: 3, proxy: 4, max_length: 16, partition: {kind: iid}}
clients: {tiers: [{share: 1/3, blocks: 1}, {share: 1/3, blocks: 2}, {share: 1/3, blocks: 3}]}
method: {name: rgd-hla}
train: {rounds: 2, clients_per_round: 3, lr: 1e-2, quorum: 0.5, retries: 5, autocast: none}
run: {name: net, deadline_floor: 20, wait: 600}
"""


class Machines:
    """Starts and ends them in a folder with a tiny model and data.

    ``inside`` maps ``server`` and ``client`` to commands that run another one elsewhere, where ``host`` is the server.
    """

    def __init__(self, folder, config=CONFIG, host="127.0.0.1", inside=None):
        self.folder = folder
        self.run = folder / "runs" / "net"
        self.host, self.port, self.inside = host, _free_port(), inside or {}
        self.started = {}
        (folder / "net.yaml").write_text(config)

    def start(self, name, *words, module="fedhello.cli.main"):
        """Start ``fedhello …``, or another module; what it says goes to the file of that name."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.started[name] = subprocess.Popen(
                [*self.inside.get(words[0], ()), sys.executable, "-m", module, *map(str, words)],
                cwd=self.folder, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "COLUMNS": "200"},
            )  # fmt: skip
        return self.started[name]

    def server(self, *words, **more):
        return self.start("server", "server", "net.yaml", "--host", self.host, "--port", self.port, *words, **more)

    def client(self, k, *words, name=None):
        brought = ("--part", k, "--data", "texts.csv", "--model", "tiny")
        return self.start(name or f"client-{k}", "client", "--server", f"{self.host}:{self.port}", *brought, *words)

    def said(self, name):
        return (self.folder / f"{name}.log").read_text()

    def rounds(self):
        file = self.run / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def wait_for(self, condition, seconds=480, what="it"):
        """Wait until a condition holds; return the seconds that took."""
        begin = time.monotonic()
        while not condition():
            assert time.monotonic() - begin < seconds, f"{what} did not happen; " + self.all_said()
            time.sleep(0.2)
        return time.monotonic() - begin

    def all_said(self):
        return "\n".join(f"--- {name}\n{self.said(name)[-2000:]}" for name in self.started)

    def children(self, name, word):
        """Return the process of a started one's children whose command line holds a word."""
        family = psutil.Process(self.started[name].pid).children(recursive=True)
        return next(child for child in family if word in " ".join(child.cmdline()))

    def kill(self, name):
        """Kill one without a word."""
        self.started[name].kill()
        self.started[name].wait()

    def end(self, name, seconds=480):
        """Wait for one to end; return its exit code."""
        try:
            return self.started[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end; " + self.all_said()) from None

    def left(self):
        """Return the command lines of processes that are still there, and whether the port is open."""
        groups = {process.pid for process in self.started.values()}
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
            except (ProcessLookupError, psutil.NoSuchProcess):
                continue
        return found, is_open(self.port)

    def close(self):
        for process in self.started.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            process.wait()


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def is_open(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
