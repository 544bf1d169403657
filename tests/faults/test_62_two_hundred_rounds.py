"""Over 200 rounds neither memory nor the number of open files grows."""

import contextlib

import numpy as np
import psutil
import pytest

from fedhello.config.load import load_config
from fedhello.runs.callbacks import Callback
from fedhello.runs.folder import RunFolder
from fedhello.runs.runner import run_session
from fedhello.setup.prepare import prepare


class Watching(Callback):
    def __init__(self):
        self.process = psutil.Process()
        self.memory, self.files = [], []

    def on_round(self, state, record):
        self.memory.append(self.process.memory_info().rss)
        self.files.append(self.process.num_fds())


@pytest.mark.slow
def test_memory_and_open_files_are_flat(place):
    words = ["train.rounds=200", "train.measure_memory=false", "train.lr=1e-3"]
    with contextlib.chdir(place):
        session = prepare(load_config(place / "tiny.yaml", words))
        watching = Watching()
        summary = run_session(session, RunFolder(place / "r"), [watching]).to_dict()
    assert summary["rounds"] == 200
    settled = np.array(watching.memory[20:])  # the first rounds fill caches
    slope = np.polyfit(range(len(settled)), settled, 1)[0]
    assert slope < 0.001 * settled[0], f"{slope:.0f} bytes per round"
    assert set(watching.files[1:]) == {watching.files[1]}
    assert len(list((place / "r" / "checkpoints").iterdir())) == 3
