"""What the framework costs: whole rounds of the demo against a bare PyTorch loop over the same batches.

    python benchmarks/overhead.py [--rounds 20]

Both train the same clients, allocations and batches on the same model in this process, in turn, so that the
machine's mood hits both. A framework round holds everything between two rounds but the evaluation: sampling, Fisher
scores where due, allocation, tokens to batches, training, memory measurement, encoding, checking, decoding and
averaging. The bare loop gets its batches ready-made, and only sets ``requires_grad``, copies the start values and
trains.
"""

import argparse
import json
import statistics
import time

START = time.perf_counter()

import torch

from fedhello import algorithm
from fedhello.client.loss import absent_classes, prediction_loss
from fedhello.client.settings import learning_rate
from fedhello.config.load import load_config
from fedhello.data.batches import training_batches
from fedhello.randomness import generator
from fedhello.runs.loop import start
from fedhello.runs.scoring import Scorer
from fedhello.runs.summarise import versions
from fedhello.setup.prepare import prepare


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("overrides", nargs="*", help="configuration overrides, such as train.batch_size=32")
    arguments = parser.parse_args()

    session = prepare(load_config(None, [f"train.rounds={arguments.rounds + 1}", *arguments.overrides]))
    state = start(session).state
    until_first_round = time.perf_counter() - START

    framework, bare, ratios = [], [], []
    for i in range(arguments.rounds + 1):
        # The bare loop needs the round's draws, so an unmeasured round comes first; then the order alternates.
        after, record = play(session, state)[:2]
        if i % 2:
            seconds, bare_seconds = play(session, state)[2], bare_round(session, state, record)
        else:
            bare_seconds, seconds = bare_round(session, state, record), play(session, state)[2]
        samples = sum(client.samples for client in record.clients) * session.engine.settings.epochs
        framework.append(samples / seconds)
        bare.append(samples / bare_seconds)
        ratios.append(bare_seconds / seconds)
        state = after
    # The first round warms both up.
    print(
        json.dumps(
            {
                "benchmark": "overhead",
                "rounds": arguments.rounds,
                "framework_samples_per_second": statistics.median(framework[1:]),
                "bare_samples_per_second": statistics.median(bare[1:]),
                "ratio_median": statistics.median(ratios[1:]),
                "ratio_min": min(ratios[1:]),
                "ratio_max": max(ratios[1:]),
                "goal": 0.90,
                "seconds_from_import_to_first_round": until_first_round,
                "goal_seconds": 10,
                "threads": torch.get_num_threads(),
                "versions": versions(),
            },
            indent=2,
        )
    )


def play(session, state):
    """Play one round; return the state after it, its record and the seconds."""
    begin = time.perf_counter()
    after, record = algorithm.round(state, session.federation, session.method, session.engine.train, Scorer(session))
    return after, record, time.perf_counter() - begin


def bare_round(session, state, record) -> float:
    """Train the same clients in the same way without the framework; return the seconds."""
    engine, settings = session.engine, session.engine.settings
    model, module = session.model, session.model.module
    prepared = []
    for report in record.clients:
        data, lengths = engine.data[report.client], engine.data[report.client].lengths()
        batches = [
            data.batch(positions)
            for epoch in range(settings.epochs)
            for positions in training_batches(
                lengths,
                settings.batch_size,
                generator(session.federation.seed, "order", state.round, report.client, epoch),
            )
        ]
        own = next(c.classes for c in session.federation.clients if c.id == report.client)
        absent = absent_classes(own, model.num_labels) if settings.loss == "restricted" else None
        prepared.append((report, batches, absent))
    parameters = {name: model._parameters[name] for name in state.adapter.tensors}
    lr = learning_rate(settings, state.round)

    begin = time.perf_counter()
    module.train()
    for report, batches, absent in prepared:
        chosen = set(report.blocks)
        trainable = []
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state.adapter.tensors[name])
                block = state.adapter.block_of[name]
                parameter.requires_grad_(block is None or block in chosen)
                if parameter.requires_grad:
                    trainable.append(parameter)
        optimizer = torch.optim.AdamW(trainable, lr=lr, weight_decay=settings.weight_decay)
        for batch in batches:
            loss = prediction_loss(module(**batch.inputs).logits.float(), batch.labels, absent)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
