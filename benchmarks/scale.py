"""What many clients cost: preparation by part, memory a text, a round beside training, and bytes of the run folder.

    python benchmarks/scale.py [--clients 1000 10000 100000] [--texts-per-client 10] [--rounds 20] [--csv]

Each (K, n) is measured in a process of its own, since the peak memory of a process never falls. Texts are random words,
all different, the model is a tiny random BERT, so nothing here says anything about accuracy. Seconds are of the CPU.

``prepare``: seconds of preparation by part, and the bytes by which the process grew over it, at the peak and after it,
beside the texts themselves if they are given as objects; ``without_files`` leaves out pages of mapped files, which the
system may forget. ``round``: seconds a round beside local training, with
evaluation off, of the rounds after the first. ``folder``: bytes, and the bytes that a round adds to it.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

os.environ.setdefault("FEDHELLO_CACHE", "")

import numpy as np

VOCABULARY, CLASSES, HELD_OUT = 5000, 4, 200
PARTS = ("load_data", "split_data", "data_digest", "encode", "load_model", "partition_data", "_shapes", "step_costs",
         "clients_of", "federate", "label_histogram", "assemble")  # fmt: skip
"""Functions of preparation that are timed by themselves."""


def main() -> None:
    """Read the arguments, measure each size in a process of its own, print JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--texts-per-client", type=int, default=10)
    parser.add_argument("--words", type=int, default=12, help="of a text, give or take four")
    parser.add_argument("--cohort", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--csv", action="store_true", help="read the texts from a CSV file instead of memory")
    parser.add_argument(
        "--profile",
        type=int,
        metavar="ROWS",
        help="print the functions that preparation, and then the rounds, spend most in",
    )
    parser.add_argument("--here", action="store_true", help="measure one size in this process")
    parser.add_argument("overrides", nargs="*", help="configuration overrides, such as train.measure_memory=false")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments)))
        return
    for clients in arguments.clients:
        given = [word for word in sys.argv[1:] if word != "--here"]
        subprocess.run([sys.executable, __file__, *given, "--here", "--clients", str(clients)], check=True)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Return the figures of one number of clients."""
    import torch

    import fedhello as fh
    from fedhello.setup import prepare

    torch.set_num_threads(1)
    (K,) = arguments.clients
    n = K * arguments.texts_per_client
    longest = 2 * arguments.words + 8
    model, tokenizer = bert(max(64, longest))
    with tempfile.TemporaryDirectory() as place:
        data = {
            name: texts(count, seed, arguments.words)
            for seed, (name, count) in enumerate({"data": n, "validation": HELD_OUT, "test": HELD_OUT}.items())
        }
        if arguments.csv:
            data = {name: written(one, Path(place) / f"{name}.csv") for name, one in data.items()}
        config = {
            "data": {"clients": K, "partition": {"kind": "iid"}, "proxy": 20, "max_length": longest, "text": "text"},
            "train": {"rounds": arguments.rounds, "clients_per_round": arguments.cohort, "evaluate_every": 10**6},
            "model": {"head": "aggregate"},
            "clients": {"tiers": [{"share": 0.5, "blocks": 1}, {"share": 0.5, "blocks": 3}]},
            "method": {"name": "rgd-hla"},
            "run": {"out": place, "name": "scale"},
        }
        if arguments.csv:
            config["data"] |= {"name" if name == "data" else name: file for name, file in data.items()}
        objects = {"model": model, "processor": tokenizer} | ({} if arguments.csv else data)
        seconds: dict[str, float] = {}
        before, begin = (resident(), resident("RssAnon")), time.process_time()
        reset_peak()
        with profiled(arguments.profile), timed(prepare, PARTS, seconds):
            session = fh.prepare(config, arguments.overrides, **objects)
        whole, peak, after = time.process_time() - begin, resident("VmHWM"), (resident(), resident("RssAnon"))
        with profiled(arguments.profile):
            rounds = play(session, Path(place) / "scale")
    return {
        "clients": K,
        "texts": n,
        "words": arguments.words,
        "source": "csv" if arguments.csv else "memory",
        "prepare": {
            "seconds": round(whole, 2),
            "by_part": {name: round(value, 2) for name, value in seconds.items()},
            "peak_bytes_per_text": round((peak - before[0]) / n),
            "bytes_per_text": round((after[0] - before[0]) / n),
            "bytes_per_text_without_files": round((after[1] - before[1]) / n),
        },
        **rounds,
        "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def play(session, folder: Path) -> dict[str, object]:
    """Run the rounds; return the seconds beside training, and how large the folder becomes."""
    import fedhello as fh
    from fedhello.engine import local
    from fedhello.runs.folder import RunFolder
    from fedhello.runs.runner import run_session

    trained: dict[str, float] = {}
    beside: list[float] = []
    sizes: list[int] = []

    class Watch(fh.Callback):
        def __init__(self) -> None:
            self.last = 0.0

        def on_start(self, session, beginning) -> None:
            self.began = self.last = time.process_time()

        def on_round(self, state, record) -> bool:
            beside.append(time.process_time() - self.last - trained.pop("local_training", 0.0))
            sizes.append(size(folder))
            self.last = time.process_time()
            return False

    begin = time.process_time()
    watch = Watch()
    with timed(local, ("local_training",), trained):
        run_session(session, RunFolder(folder), [watch])
    end = time.process_time()
    clients = session.federation.clients_per_round
    usual = statistics.median(beside[1:] or beside)
    half = len(sizes) // 2
    return {
        "round": {
            "clients": clients,
            "first_seconds_beside_training": round(beside[0], 4),
            "seconds_beside_training": round(usual, 4),
            "goal_seconds": 0.05 + 0.002 * clients,
            "start_seconds": round(watch.began - begin, 2),
            "end_seconds": round(end - watch.last, 2),
        },
        "folder": {
            "rounds": len(sizes),
            "bytes": size(folder),
            "bytes_per_round": round((sizes[-1] - sizes[half]) / max(1, len(sizes) - 1 - half)),
            "files": {path.name: size(path) for path in sorted(folder.iterdir())},
        },
    }


@contextmanager
def timed(module, names, seconds: dict[str, float]):
    """Add the CPU seconds that calls of functions take, by name; what they call counts as theirs."""

    def wrapped(name, function):
        def call(*args, **kwargs):
            begin = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - begin

        return call

    patches = [patch.object(module, name, wrapped(name, getattr(module, name))) for name in names]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()


@contextmanager
def profiled(rows: int | None):
    """Print where the CPU seconds go, if rows are asked for."""
    if not rows:
        yield
        return
    import cProfile
    import pstats

    profile = cProfile.Profile(time.process_time)
    with profile:
        yield
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(rows).sort_stats("cumtime").print_stats(
        rows
    )


def resident(which: str = "VmRSS") -> int:
    """Return the bytes of memory of this process, or their peak with ``VmHWM``."""
    with Path("/proc/self/status").open(encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(which)) * 1024


def reset_peak() -> None:
    """Let the peak be the present memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def texts(n: int, seed: int, words_each: int) -> dict[str, list[str]]:
    """Return n different texts of about so many random words as columns."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{i}" for i in range(VOCABULARY)])
    lengths = rng.integers(words_each - 4, words_each + 5, size=n)
    drawn = words[rng.integers(VOCABULARY, size=int(lengths.sum()))].tolist()
    ends = np.cumsum(lengths).tolist()
    rows = [" ".join(drawn[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]
    return {"text": rows, "label": [f"class-{c}" for c in rng.integers(CLASSES, size=n).tolist()]}


def written(columns: dict[str, list[str]], path: Path) -> str:
    """Write columns as CSV, and return the path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    return str(path)


def bert(positions: int = 64):
    """Return a tiny random BERT and a tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(VOCABULARY))]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=positions, num_labels=CLASSES,
    )  # fmt: skip
    return BertForSequenceClassification(config), tokenizer


if __name__ == "__main__":
    main()
