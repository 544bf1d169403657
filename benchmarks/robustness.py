"""What lost clients cost, what hostile clients do to each rule, and what damaged updates do to the server.

    python benchmarks/robustness.py [--only dropout|attacks|bound|lengths|fuzz] [--seeds 0,1,2] [key=value …]

``dropout``: the demo, undisturbed and with a third of the invited clients lost in every round. The figure is the
difference of their mean accuracies over the last five rounds; it should be within 0.01.

``attacks``: nine clients with data alike, everybody trains everything in each of eight rounds, and three of them are
hostile: *sign flip* sends θ − 4Δ where an honest client would send θ + Δ, so that the mean goes backwards; *boost*
sends θ + 100Δ. The rules should end within 0.03 of the honest run, and the plain mean should not. ``--rules`` plays
some of the rules only. The bound that is on by default is off there.

``bound``: the same with one hostile client of nine and plain means, with and without ``defence.max_norm``: *backwards*
sends θ − 20Δ, *a million* sends 10⁶ everywhere. With the bound they should end within 0.05 of the honest run. It is the
last model that counts, not the one that validation data select. ``null`` is a run that ended, since nobody could train.

``lengths``: how many times the usual length the longest update of honest runs is, as ``defence.max_norm`` counts it;
none may come near 5. Label-skewed clients of few and of many samples, one and four local epochs, tiers of one to six
blocks or of ranks 2 to 8, trained heads, SGD.

``fuzz``: 10,000 damaged updates of a MiniLM adapter pass the one door: exceptions, the slowest, the most memory of
Python's (of every 21st) beyond the payload, and whether a round with all the rejected ones ends with other bits than
without. Half of them get a digest that fits, so that what lies behind it is met as well. Where the tensors themselves
are looked at, they are copied twice on the way.

Further arguments override the configuration of every run.
"""

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fedhello import algorithm
from fedhello.aggregation.bound import TIMES_USUAL, bound_of, bounded
from fedhello.aggregation.share import MAX_SHARE
from fedhello.client.settings import METRICS
from fedhello.config.load import load_config
from fedhello.engine.protocol import Heads
from fedhello.engine.wire import Expected, decode, encode_tensors, encode_update, seal
from fedhello.errors import QuorumError
from fedhello.methods import METHODS
from fedhello.runs.loop import rounds, start
from fedhello.runs.summarise import summarise, versions
from fedhello.session import Session
from fedhello.setup.prepare import prepare
from fedhello.types import Adapter, Budget, Client, Federation, Rejection, Task, Update

LOST = 0.33
HOSTILE, CLIENTS = 3, 9
ALIKE = [
    "method.name=full", f"data.clients={CLIENTS}", f"train.clients_per_round={CLIENTS}", "data.partition={kind: iid}",
    "train.rounds=8", "train.quorum=1", "data.samples=750", "data.test=0.4", "train.measure_memory=false",
]  # fmt: skip
RULES = {
    "mean": ["defence.rule=mean"],
    **{
        rule: [f"defence.rule={rule}", f"defence.byzantine={HOSTILE}"]
        for rule in ("median", "trimmed-mean", "multi-krum")
    },
}
Attack = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What is sent in the place of a tensor: (what the client started from, what an honest client would send)."""


def times(factor: float) -> Attack:
    """Return the attack that moves everything by so many times what an honest client would."""
    return lambda before, after: before + factor * (after - before)


ATTACKS = {"sign flip": times(-4.0), "boost": times(100.0)}
BEYOND = {"backwards": times(-20.0), "a million": lambda before, after: torch.full_like(after, 1e6)}
BOUNDS = {"bounded": ["train.selection=last"], "unbounded": ["train.selection=last", "defence.max_norm=null"]}
RANKS = "clients.tiers=[{share: 1/3, rank: 2}, {share: 1/3, rank: 4}, {share: 1/3, rank: 8}]"
SKEWED = "data.partition={kind: dirichlet, alpha: 0.1}"
HONEST = {
    "demo": [],
    "dirichlet 0.1": [SKEWED, "train.rounds=6"],
    "dirichlet 0.05, 4 epochs": ["data.partition={kind: dirichlet, alpha: 0.05}", "train.epochs=4", "train.rounds=3"],
    "tiers of 1, 3 and 6 blocks": [
        "clients.tiers=[{share: 1/2, blocks: 1}, {share: 1/4, blocks: 3}, {share: 1/4, blocks: 6}]",
        "train.clients_per_round=10", "train.rounds=3",
    ],
    "trained head": ["model.head=aggregate", "data.partition={kind: dirichlet, alpha: 0.3}", "train.rounds=4"],
    "ranks, hetlora": ["method.name=hetlora", RANKS, "train.rounds=3"],
    "ranks, flora": ["method.name=flora", RANKS, "train.rounds=3"],
    "sgd, dirichlet 0.1": ["train.optimizer=sgd", "train.lr=0.1", SKEWED, "train.rounds=4"],
}  # fmt: skip
UNREAD = ("too large", "checksum", "malformed", "stale", "not invited", "wrong count", "out of bounds")
MINILM_MODULES, MINILM_WIDTH, MINILM_RANK = 12, 384, 8


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("dropout", "attacks", "bound", "lengths", "fuzz"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "dropout": lambda: dropout(seeds, arguments.overrides),
        "attacks": lambda: attacks(seeds, arguments.rules.split(","), arguments.overrides),
        "bound": lambda: bound(seeds, arguments.overrides),
        "lengths": lambda: honest_lengths(seeds, arguments.overrides),
        "fuzz": lambda: fuzz(arguments.cases),
    }
    found = {name: part() for name, part in parts.items() if arguments.only in (None, name)}
    facts = {"benchmark": "robustness", "seeds": seeds, "overrides": arguments.overrides}
    print(json.dumps(facts | found | {"versions": versions()}, indent=1))


def play(overrides: list[str], seed: int, disturb: Callable[[Session], None] = lambda session: None) -> dict[str, Any]:
    """Run one configuration, disturbed in some way, and return its summary."""
    session = prepare(load_config(None, [*overrides, f"run.seed={seed}"]))
    disturb(session)
    beginning = start(session)
    results = [result for _, result in rounds(session, beginning.state)]
    return summarise(session, beginning, results, wall_seconds=0.0, status="finished").to_dict()


def dropout(seeds: list[int], overrides: list[str]) -> dict[str, Any]:
    """Compare the demo with and without losses."""
    plain = [play(overrides, seed) for seed in seeds]
    lossy = [play([*overrides, f"clients.dropout={LOST}", "train.retries=10"], seed) for seed in seeds]
    reached = {name: [run["mean_last_5"] for run in found] for name, found in (("plain", plain), ("lossy", lossy))}
    return {
        "lost": LOST,
        "mean_last_5": reached,
        "difference": statistics.fmean(reached["lossy"]) - statistics.fmean(reached["plain"]),
        "replies_lost": [run["rejections"].get("lost", 0) for run in lossy],
        "failed_attempts": [run["failed_attempts"] for run in lossy],
        "rounds": [run["rounds"] for run in lossy],
    }


def attacks(seeds: list[int], rules: list[str], overrides: list[str]) -> dict[str, Any]:
    """Let each rule meet each attack, and the mean nobody: the honest run."""
    rows = []
    for rule, words in ((rule, RULES[rule]) for rule in rules):
        for attack, how in (({"nobody": None} if rule == "mean" else {}) | ATTACKS).items():
            found = played([*words, "defence.max_norm=null", *overrides], seeds, how, HOSTILE)
            rows.append({"rule": rule, "attack": attack, **found})
            print(rows[-1], file=sys.stderr, flush=True)
    honest = next((row["mean"] for row in rows if row["attack"] == "nobody"), None)
    for row in rows:
        row["below_honest_mean"] = None if None in (honest, row["mean"]) else honest - row["mean"]
    return {"clients": CLIENTS, "hostile": HOSTILE, "rows": rows}


def bound(seeds: list[int], overrides: list[str]) -> dict[str, Any]:
    """Let one client attack plain means, with and without the bound, and let nobody do so."""
    rows = []
    for name, words in BOUNDS.items():
        for attack, how in ({"nobody": None} | BEYOND).items():
            rows.append({"bound": name, "attack": attack, **played([*words, *overrides], seeds, how, 1)})
            print(rows[-1], file=sys.stderr, flush=True)
    return {"clients": CLIENTS, "hostile": 1, "rows": rows}


def played(words: list[str], seeds: list[int], attack: Attack | None, hostile: int) -> dict[str, Any]:
    """Return what clients with data alike come to, by seed, where some of them attack."""
    reached: list[float | None] = []
    for seed in seeds:
        try:
            reached.append(play([*ALIKE, *words], seed, lambda session: corrupt(session, attack, hostile))["final"])
        except QuorumError:
            reached.append(None)
    counted = [final for final in reached if final is not None]
    return {"final": reached, "mean": statistics.fmean(counted) if counted else None}


def honest_lengths(seeds: list[int], overrides: list[str]) -> dict[str, Any]:
    """Return how many times as long as usual the longest update of honest runs is, and how many updates there were."""
    found = {}
    for name, words in HONEST.items():
        longest: list[float] = []
        for seed in seeds:
            play([*words, "train.measure_memory=false", *overrides], seed, partial(measure, longest=longest))
        found[name] = {"updates": len(longest), "longest": max(longest)}
        print(name, found[name], file=sys.stderr, flush=True)
    return found


def measure(session: Session, longest: list[float]) -> None:
    """Let each round add its updates' lengths to a list; what is no longer than usual counts as 1."""
    train, judge = session.engine.train, bound_of(session.federation, 1.0, MAX_SHARE)

    def noted(tasks: Iterable[Task], heads: Heads | None = None) -> list[Update | Rejection]:
        asked = {task.client: task for task in tasks}
        replies = list(train(asked.values(), heads))
        judged = bounded(replies, lambda k: asked[k].adapter, judge)
        longest.extend(one.metrics.get(TIMES_USUAL, 1.0) for one in judged if isinstance(one, Update))
        return replies

    session.engine.train = noted  # type: ignore[method-assign]


def corrupt(session: Session, attack: Attack | None, hostile: int) -> None:
    """Let the first clients attack; None leaves them honest."""
    train = session.engine.train

    def corrupted(tasks: Iterable[Task], heads: Heads | None = None) -> Iterator[Update | Rejection]:
        starts: dict[int, Adapter] = {}

        def noted() -> Iterator[Task]:
            for task in tasks:
                starts[task.client] = task.adapter
                yield task

        for reply in train(noted(), heads):
            if attack is None or isinstance(reply, Rejection) or reply.client >= hostile:
                yield reply
            else:
                before = starts[reply.client].tensors
                yield replace(reply, tensors={n: attack(before[n], value) for n, value in reply.tensors.items()})

    session.engine.train = corrupted  # type: ignore[method-assign]


def fuzz(cases: int) -> dict[str, Any]:
    """Decode damaged updates, and play a round with those that are rejected."""
    rng, draw = np.random.default_rng(0), torch.Generator().manual_seed(0)
    shapes = {"lora_A": (MINILM_RANK, MINILM_WIDTH), "lora_B": (MINILM_WIDTH, MINILM_RANK)}
    names = {f"{i}.{which}.weight": shape for i in range(MINILM_MODULES) for which, shape in shapes.items()}
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in names.items()}
    good = encode_update(Update(1, 0, 10, tensors, dict.fromkeys(METRICS, 1.0)), "fuzz")
    expected = Expected(1, 0, 10, tensors, "fuzz")
    exceptions, slowest, reasons = 0, 0.0, Counter[str]()
    beyond = {"before tensors are looked at": 0, "with tensors": 0}
    rejected: list[Rejection] = []
    for case in range(cases):
        payload = damaged(rng, good, encode_tensors(tensors), resealed=case % 2 == 1)
        try:
            reply, seconds, peak = measured(payload, expected, memory=case % 21 == 0)
        except Exception:
            exceptions += 1
            continue
        reason = reply.reason if isinstance(reply, Rejection) else "taken: harmless or well-formed"
        stage = "before tensors are looked at" if reason in UNREAD else "with tensors"
        slowest, beyond[stage] = max(slowest, seconds), max(beyond[stage], peak - len(payload))
        reasons[reason] += 1
        rejected += [reply] if isinstance(reply, Rejection) else []
    return {
        "cases": cases,
        "payload_bytes": len(good),
        "exceptions": exceptions,
        "slowest_ms": 1000 * slowest,
        "most_bytes_beyond_the_payload": beyond,
        "replies": reasons,
        "rejected_change_the_model": changes_the_model(rejected),
    }


def measured(payload: bytes, expected: Expected, memory: bool) -> tuple[Update | Rejection, float, int]:
    """Decode; return the reply, and seconds or most bytes held: measuring the one would spoil the other."""
    if memory:
        tracemalloc.start()
    begin = time.perf_counter()
    try:
        reply = decode(payload, expected)
        seconds = time.perf_counter() - begin
        return (reply, 0.0, tracemalloc.get_traced_memory()[1]) if memory else (reply, seconds, 0)
    finally:
        tracemalloc.stop()


def damaged(rng: np.random.Generator, good: bytes, body: bytes, resealed: bool) -> bytes:
    """Change a byte, cut something out, repeat something, or replace all; most of it near the headers."""
    header_end = len(good) - len(body)
    data = bytearray(good)
    near = rng.random() < 0.8
    at = int(rng.integers(40, min(len(good), header_end + 2500) if near else len(good)))
    length = int(rng.integers(1, 33))
    match rng.integers(5):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at : at + length]
        case 2:
            data[at:at] = data[at : at + length]
        case 3:
            del data[at:]
        case _:
            data[at : at + length] = rng.bytes(length)
    return seal(bytes(data[40:header_end]), bytes(data[header_end:])) if resealed else bytes(data)


def changes_the_model(rejected: list[Rejection]) -> bool:
    """Return whether a round with one honest update and all these rejections ends otherwise than without them."""
    adapter = Adapter({"0.lora_A.weight": torch.zeros(2, 3)}, {"0.lora_A.weight": 0})
    budget = Budget(blocks=1)
    world = Federation((Client(0, 0, budget, 10), Client(1, 0, budget, 10)), (budget,), 1, 2, 0)
    honest = Update(0, 0, 10, {"0.lora_A.weight": torch.ones(2, 3)})

    def after(replies: list[Update | Rejection]) -> torch.Tensor:
        method = METHODS["full"].bind()
        state, _ = algorithm.round(
            algorithm.init(adapter), world, method, lambda tasks: (list(tasks), replies)[1], None
        )
        return state.adapter.tensors["0.lora_A.weight"]

    return not torch.equal(after([honest]), after([honest, *rejected]))


if __name__ == "__main__":
    main()
