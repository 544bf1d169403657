"""Folders of runs that never took place, with as many clients, rounds, classes and blocks as are asked for."""

import json

import numpy as np

from fedhello.config.load import dump_config
from fedhello.config.read import load_config
from fedhello.model.confusion import ConfusionMatrix
from fedhello.model.evaluation import Evaluation
from fedhello.runs.confusion import Confusion
from fedhello.runs.files import write_whole
from fedhello.runs.folder import RunFolder
from fedhello.runs.formats import write_clients, write_round
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary, TierSummary
from fedhello.session import ClientEntry
from fedhello.state import ClientReport, RoundReport
from fedhello.types import Rejection

TIERS = [{"share": "1/2", "memory": 32_000_000}, {"share": "1/2", "memory": 60_000_000}]
SAMPLES = 3080


def big_run(folder, clients=1000, rounds=200, a_round=1000, classes=77, blocks=12, ended=True):
    """Write the folder, and return it."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    made = RunFolder(folder)
    tiers = "[" + ", ".join(f"{{share: {one['share']}, memory: {one['memory'] // 1_000_000}MB}}" for one in TIERS) + "]"
    config = load_config(None, [f"train.rounds={max(1, rounds)}", f"clients.tiers={tiers}", "train.lr=1e-3"])
    write_whole(folder / "config.yaml", dump_config(config))
    names = [f"class number {c}" for c in range(classes)]
    counts = draw.multinomial(70, draw.dirichlet([0.2] * classes, clients)).tolist()
    entries = [ClientEntry(k, k % 2, 70, dict(zip(names, counts[k], strict=True))) for k in range(clients)]
    write_whole(folder / "clients.json", json.dumps(write_clients(entries)))
    with (folder / "rounds.jsonl").open("w") as file:
        for t in range(rounds):
            file.write(json.dumps(write_round(big_round(draw, t, clients, a_round, blocks, rounds))) + "\n")
    if ended:
        write_whole(folder / "confusion.json", json.dumps(_confusion(draw, names).to_dict()))
        made.write_summary(_summary(rounds, names, blocks))
    return made


def big_round(draw, t, clients, a_round, blocks, rounds):
    """Return round t."""
    asked = sorted(draw.choice(clients, a_round, replace=False).tolist())
    lost = sorted(draw.choice(asked, a_round // 20, replace=False).tolist())
    here = sorted(set(asked) - set(lost))
    trained = {
        k: tuple(sorted(draw.choice(blocks, min(blocks, 4 if k % 2 else 9), replace=False).tolist())) for k in here
    }
    reports = tuple(
        ClientReport(k, k % 2, trained[k], ("keep",) * blocks, 70, _metrics(draw, k), 1_500_000, 300_000) for k in here
    )
    contributors = tuple(sum(b in trained[k] for k in here) for b in range(blocks))
    rejections = tuple(Rejection(k, t, "lost" if k % 3 else "late", "", 1_500_000, 0) for k in lost)
    accuracy = 0.9 - 0.8 * 0.97**t + float(draw.normal(0, 0.005))
    test, validation = (Evaluation(min(1.0, max(0.0, accuracy)), 4 * 0.98**t, n, {}) for n in (SAMPLES, 500))
    report = RoundReport(t, reports, contributors, None, t % 10 == 0, rejections=rejections)
    return RoundRecord(report, 4 * 0.97**t, validation, test, 12.5, 1.5)


def _metrics(draw, k):
    peak = 11e6 + 5e6 * (k % 2) + float(draw.integers(0, 1_000_000))
    return {
        "loss": float(draw.random()), "samples": 70.0, "seconds": 0.4, "peak_bytes": peak,
        "predicted_peak_bytes": 16.9e6, "predicted_memory_bytes": 30e6, "process_bytes": 2 * peak,
    }  # fmt: skip


def _confusion(draw, names):
    true = np.arange(SAMPLES) % len(names)
    before, after = (
        np.where(draw.random(SAMPLES) < share, true, (true + draw.integers(1, 6, SAMPLES)) % len(names))
        for share in (0.4, 0.88)
    )
    return Confusion(*(ConfusionMatrix.of(true, predicted, names) for predicted in (before, after)))


def _summary(rounds, names, blocks):
    start, final = Evaluation(0.4, 2.0, SAMPLES), Evaluation(0.88, 0.4, SAMPLES)
    tiers = tuple(TierSummary(budget={"memory": one["memory"]}, blocks_trained=(1,) * blocks) for one in TIERS)
    return Summary(
        status="finished", method="fed-hello", seed=0, rounds=rounds, metric="test accuracy", start=0.4,
        start_scores=start, final_scores=final, final=0.88, mean_last_5=0.88, best_on_validation=0.88, best_round=3,
        bytes_up=60_000_000_000, bytes_down=300_000_000_000, wall_seconds=2800.0, train_seconds=80_000.0, tiers=tiers,
        labels=tuple(names), model="some/model", notes=("made up",), versions={"python": "3"},
    )  # fmt: skip
