"""A user's own Flower app with fedhello in it: few lines, real processes, and Flower's simulation."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machines import is_open

pytest.importorskip("flwr", reason="needs the extra flower")

from fedhello.network import QUIET
from fedhello.network.processes import free_port, stop

APP = Path(__file__).parents[2] / "examples" / "adopted"
BIN = Path(sys.executable).parent
ROUNDS = 2


def test_the_app_differs_by_fifteen_lines_from_what_it_was(tmp_path):
    diff = (APP / "changes.diff").read_text()
    new = [line for line in diff.splitlines() if re.match(r"\+(?!\+\+ ).*\S", line)]
    old = [line for line in diff.splitlines() if re.match(r"-(?!-- ).*\S", line)]
    assert (len(new), len(old)) == (15, 10)
    before = tmp_path / "app"
    shutil.copytree(APP, before, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-R", "changes.diff"], cwd=before, check=True)
    sources = {file.name: file.read_text() for file in (before / "headlines").glob("*.py")}
    assert "strategy = FedAvg(fraction_evaluate=fraction_evaluate)" in sources["server_app.py"]
    assert not any("fedhello" in source for source in sources.values())


class Processes:
    """Flower's own, in a folder of their own."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.children = folder, []
        for name, value in QUIET.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("FLWR_LOG_LEVEL", "INFO")
        monkeypatch.setenv("FLWR_HOME", str(folder / "flwr"))
        monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        # A ClientApp runs in the app's own folder; what the tests run is not installed.
        source = Path(importlib.util.find_spec("fedhello").origin).parents[1]
        monkeypatch.setenv("PYTHONPATH", str(source))
        shutil.copytree(APP, folder / "app", ignore=shutil.ignore_patterns("__pycache__", "data"))
        subprocess.run([sys.executable, folder / "app" / "make_data.py"], check=True)
        self.port = free_port()
        (folder / "flwr").mkdir()
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def start(self, name, *words):
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [BIN / words[0], *map(str, words[1:])]
            self.children.append(
                subprocess.Popen(command, cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=log)
            )

    def superlink(self, *words):
        self.start("superlink", "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", self.port, *words)
        end = time.monotonic() + 60
        while not is_open(self.port):
            assert time.monotonic() < end, self.said()
            time.sleep(0.2)

    def run(self):
        """Run the app to its end; return what it said, and its status."""
        config = f"num-server-rounds={ROUNDS}"
        done = subprocess.run(
            [BIN / "flwr", "run", "app", "here", "--stream", "--run-config", config],
            cwd=self.folder, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        listed = subprocess.run([BIN / "flwr", "ls", "here", "--format", "json"], cwd=self.folder, capture_output=True)
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        return said, json.loads(listed.stdout)["runs"][0]["status"]

    def said(self):
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in self.folder.glob("*.log"))

    def close(self):
        for child in reversed(self.children):
            stop(child)


@pytest.fixture
def processes(tmp_path, monkeypatch):
    found = Processes(tmp_path, monkeypatch)
    yield found
    found.close()


def check(said, status, logs):
    assert status.startswith("finished:completed"), said + logs
    # Node 0 affords two of the six blocks, and node 1 all.
    drawn = re.findall(r"round \d: ([●·]{6}) ([●·]{6})", said)
    assert [(one.count("●"), other.count("●")) for one, other in drawn] == [(2, 6)] * ROUNDS, said + logs
    accuracies = [float(found) for found in re.findall(r"'accuracy': ([0-9.e+-]+)", said)]
    assert accuracies[0] < 0.5 < 0.8 < accuracies[-1], said
    assert "eval_acc" in said and "train_loss" in said


@pytest.mark.slow
def test_it_trains_on_a_superlink_with_two_supernodes(processes):
    processes.superlink()
    for k, blocks in enumerate((2, 6)):
        processes.start(
            f"node-{k}", "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{processes.port}",
            "--port", free_port(), "--node-config", f"partition-id={k} num-partitions=2 blocks={blocks}",
        )  # fmt: skip
    check(*processes.run(), processes.said())


@pytest.mark.slow
def test_it_trains_in_flowers_simulation(processes):
    pytest.importorskip("ray", reason="needs flwr[simulation]")
    config = processes.folder / "flwr" / "config.toml"
    config.write_text(config.read_text() + "options.num-supernodes = 2\n")
    processes.superlink("--simulation")
    check(*processes.run(), processes.said())
