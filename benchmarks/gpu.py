"""What a GPU does beside the CPU: whether results are the same, how fast steps are, and whether memory is predicted.

    python benchmarks/gpu.py [--part twins resume sample budgets steps] [--device cuda] [--tiny]

twins      the demo on fewer data, plain and under secure aggregation, on the CPU and on the device in float32, TF32 and
           bf16 autocast: accuracies, and how far the adapter at the end is from the CPU's, as a share of how far that
           one moved
resume     whether a run on the device repeats to the last bit, and whether a stopped and resumed one is the same
sample     steps that protect single samples: the clipped sum of gradients against the CPU's, and samples per second
budgets    one round whose clients have budgets in bytes: what they were predicted to take, and took; and who failed
steps      BERT-base's and ViT-B/16's shapes with random weights, by number type and batch: samples per second of a bare
           step and of local training, and the predicted peak of a step against the measured ones

Prints one JSON object per line, as soon as it is known. An allocator's peak is what torch's allocator held above its
level before, on a CPU resident memory; it includes the batch itself, which predictions leave out.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fedhello as fh
from fedhello.allocation.needs import needs
from fedhello.allocation.planner import fixed_policies
from fedhello.client.calibration import calibrate, with_optimizer
from fedhello.client.cost_model import POLICIES, StepCosts
from fedhello.client.memory import ProcessPeak
from fedhello.client.private_training import clipped_sum
from fedhello.client.settings import TrainingSettings
from fedhello.client.training import Assignment, local_training
from fedhello.data.batches import Samples
from fedhello.model.adapter import LoraModel
from fedhello.model.forward import predictions
from fedhello.runs.summarise import versions
from fedhello.types import Adapter, Allocation
from models import MODELS, SETTINGS
from resume import outcome

FEWER: dict[str, Any] = {"data.samples": 1000, "data.proxy": 20, "train.rounds": 5, "train.measure_memory": False}
TIERS = [{"share": "1/3", "memory": size} for size in ("50MB", "75MB", "180MiB")]


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"twins": twins, "resume": resumed, "sample": sample, "budgets": budgets, "steps": steps}
    parser.add_argument("--part", nargs="*", choices=list(parts), default=list(parts))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that all parts run")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    say("machine", device=name, threads=torch.get_num_threads(), **versions())
    for part in arguments.part:
        begin = time.perf_counter()
        try:
            for row in parts[part](device, arguments.tiny):
                say(part, **row)
        except Exception as error:  # the other parts are still worth their time
            say(part, failed=f"{type(error).__name__}: {error}"[:600])
        say(part, seconds_of_this_part=time.perf_counter() - begin)


def say(part: str, **row: Any) -> None:
    """Print a row at once."""
    print(json.dumps({"part": part, **row}), flush=True)


def demo(device: torch.device, tiny: bool, **more: Any) -> dict[str, Any]:
    """Return the overrides of a small run of the demo on a device."""
    less = {"data.samples": 400, "train.rounds": 2} if tiny else {}
    return FEWER | {"run.device": str(device)} | less | more


# ---------------------------------------------------------------------------------------------------------------- twins


def twins(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Run the same federations on the CPU and on the device."""
    cpu = torch.device("cpu")
    cases = [(cpu, "none", "highest"), (device, "none", "highest"), (device, "none", "high"), (device, "bfloat16", "")]
    for secure in (False, True):
        expected = None
        for where, autocast, precision in cases[: 2 if secure else 4]:
            options = {"train.autocast": autocast, "privacy.secure": secure, "train.selection": "last"}
            with matrix_precision(precision or "highest"):
                found = played(fh.prepare(None, demo(where, tiny, **options)))
            expected = expected or found
            moved = distance(expected["end"], expected["start"])
            yield {
                "device": str(where), "autocast": autocast, "precision": precision, "secure": secure,
                "accuracies": found["accuracies"], "losses": found["losses"],
                "same_allocations": found["blocks"] == expected["blocks"], "adapter_moved": moved,
                "adapter_away_from_cpu": distance(found["end"], expected["end"]) / moved,
                "median_seconds_of_a_round": statistics.median(found["seconds"]),
            }  # fmt: skip


def played(session: fh.Session) -> dict[str, Any]:
    """Play a session to its end."""
    begin = fh.start(session)
    records, state = [], begin.state
    for state, record in fh.rounds(session, begin.state):  # noqa: B007  # the last state is used
        records.append(record)
    tests = [begin.test, *(record.test for record in records)]
    return {
        "start": begin.state.adapter,
        "end": state.adapter,
        "accuracies": [score.accuracy for score in tests if score is not None],
        "losses": [score.loss for score in tests if score is not None],
        "blocks": [[client.blocks for client in record.report.clients] for record in records],
        "seconds": [record.seconds for record in records],
    }


def distance(one: Adapter, other: Adapter) -> float:
    """Return the length of the difference of two adapters."""
    parts = [torch.sum((one.tensors[name].double() - other.tensors[name].double()) ** 2) for name in one.tensors]
    return float(torch.stack(parts).sum().sqrt())


@contextmanager
def matrix_precision(name: str) -> Iterator[None]:
    """Set how float32 products are computed on a GPU: ``highest``, or ``high`` for TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# --------------------------------------------------------------------------------------------------------------- resume


def resumed(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Run twice, and once with a stop and a resumption; compare all that is written."""
    for autocast in ("none",) if tiny else ("none", "bfloat16"):
        with tempfile.TemporaryDirectory() as place:
            words = demo(device, tiny, **{"train.autocast": autocast, "run.out": place, "train.rounds": 3})
            words |= {"data.samples": 400, "train.measure_memory": True}
            first, second = (outcome(fh.run(None, words | {"run.name": name}).path) for name in ("first", "second"))
            stopped = fh.run(None, words | {"run.name": "stopped"}, callbacks=[StopAfter(2)]).path
            again = outcome(fh.resume(stopped).path)
        kinds = ("adapter", "rounds", "summary")
        yield {
            "autocast": autocast,
            "repeats": {kind: first[i] == second[i] for i, kind in enumerate(kinds)},
            "resumes": {kind: first[i] == again[i] for i, kind in enumerate(kinds)},
            "differs": {"repeated": differing(first[2], second[2]), "resumed": differing(first[2], again[2])},
        }


class StopAfter(fh.Callback):
    """Stops a run after some rounds."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def on_round(self, state: fh.RunState, record: fh.RoundRecord) -> bool:
        """Tell whether to stop."""
        return state.round >= self.rounds


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the keys of two summaries whose values differ."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


# --------------------------------------------------------------------------------------------------------------- sample


def sample(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Compare clipped sums with the CPU's, time them beside plain training, and run a small federation."""
    sums, sizes = {}, (16,) if tiny else (16, 64)
    for where in dict.fromkeys((torch.device("cpu"), device)):
        model, data = MODELS["minilm"](16 if tiny else 128)
        model.module.to(where).eval()
        adapter = model.snapshot(share_head=True)
        drawn = torch.Generator().manual_seed(0)
        values = {name: 0.05 * torch.randn(v.shape, generator=drawn) for name, v in adapter.tensors.items()}
        L = model.blocks.count
        names = [name for name in adapter.names(Allocation((L - 2, L - 1))) if model.block_of[name] is not None]
        parameters = dict(zip(sorted(names), model.set_trainable(names), strict=True))
        for size in sizes:

            def once(size: int = size, model: LoraModel = model, data: Samples = data, kept: Any = parameters) -> Any:
                return clipped_sum(model, kept, data, all_of(data), size, cross_entropy, 1.0)

            model.write(values)  # training, timed below, moves them
            sums[str(where), size] = once()
            work = Assignment(0, 0, tuple(names), data, (0, 1, 2, 3, 4), seed=0)
            plain = replace(SETTINGS, measure_memory=False, batch_size=size)
            train = lambda model=model, work=work, plain=plain: local_training(model, work, plain)  # noqa: E731
            yield {
                "device": str(where), "batch_size": size, "clipped_samples_per_second": len(data) / timed(where, once),
                "plain_samples_per_second": len(data) / timed(where, train),
            }  # fmt: skip
        model.module.to("cpu")
    for size in sizes:
        a, b = (sums[str(where), size] for where in (torch.device("cpu"), device))
        off = sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5
        yield {"batch_size": size, "sum_away_from_cpu": off / sum(float(a[n].square().sum()) for n in a) ** 0.5}
    found = played(fh.prepare(None, demo(device, tiny, **{"privacy.unit": "sample", "privacy.epsilon": 8.0,
                                                          "data.clients": 5, "model.lora.rank": 2})))  # fmt: skip
    yield {"device": str(device), "epsilon": 8, "accuracies": found["accuracies"], "seconds": found["seconds"]}


def all_of(data: Samples) -> Any:
    """Return the positions of all samples."""
    return torch.arange(len(data)).numpy()


def timed(device: torch.device, call: Callable[[], object], repeats: int = 3) -> float:
    """Return the median seconds of a call, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        wait(device)
        begin = time.perf_counter()
        call()
        wait(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -------------------------------------------------------------------------------------------------------------- budgets


def budgets(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Let every client train once within its budget in bytes."""
    words = {"train.measure_memory": True, "clients.tiers": TIERS, "data.clients": 8}
    for unit in ("client", "sample"):
        more = {"train.clients_per_round": 6, "train.quorum": 0.1, "train.batch_size": 64}
        if unit == "sample":  # each sample of a batch has gradients of its own
            more |= {"privacy.unit": "sample", "privacy.epsilon": 8.0, "model.lora.rank": 2, "train.batch_size": 4}
        session = fh.prepare(None, demo(device, tiny, **words, **more))
        yield {"unit": unit, "notes": list(session.notes)}
        state = fh.start(session).state
        for _, record in itertools.islice(fh.rounds(session, state), 1):
            for client in record.report.clients:
                budget = session.federation.tiers[client.tier].memory
                keys = ("predicted_peak_bytes", "predicted_memory_bytes", "peak_bytes", "process_bytes")
                metrics = {key: client.metrics[key] for key in keys if key in client.metrics}
                yield {"unit": unit, "budget": budget, "blocks": list(client.blocks), **metrics,
                       "policies": sorted(set(client.policies))}  # fmt: skip
            for reply in record.report.rejections:
                yield {"unit": unit, "client": reply.client, "reason": reply.reason, "detail": reply.detail[:300]}
            yield {"unit": unit, "over_budget": list(record.report.over_budget), "failed": record.report.failed}


# ---------------------------------------------------------------------------------------------------------------- steps


def steps(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Time and weigh steps of two shapes."""
    yield {"workspace_bytes": workspace(device)}
    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    for name in ("bert-base", "vit-b16"):
        for autocast in ("none", "bfloat16"):
            model, _ = MODELS[name](2, 64, **(small if tiny else {}))
            model.module.to(device)
            begin = time.perf_counter()
            costs = calibrate(model, autocast == "bfloat16", POLICIES)
            yield {"model": name, "autocast": autocast, "calibration_seconds": time.perf_counter() - begin,
                   "calibration_error": costs.error}  # fmt: skip
            for batch in (2, 4) if tiny else (16, 64, 256):
                data = MODELS[name](batch * (2 if batch > 100 else 4), 64, **small)[1]
                for precision in ("highest", "high") if autocast == "none" else ("highest",):
                    with matrix_precision(precision):
                        yield {"model": name, "autocast": autocast, "precision": precision, "batch": batch,
                               **speeds(model, data, batch, autocast)}  # fmt: skip
                for row in weights(model, costs, data, batch, autocast):
                    yield {"model": name, "autocast": autocast, "batch": batch, **row}
            model.module.to("cpu")


def workspace(device: torch.device) -> int:
    """Return the bytes that the first product and its gradient leave allocated on a GPU, for all that follow."""
    if device.type != "cuda":
        return 0
    before = torch.cuda.memory_allocated(device)
    x = torch.ones(256, 256, device=device, requires_grad=True)
    (x @ x).sum().backward()
    x = None
    wait(device)
    return torch.cuda.memory_allocated(device) - before


def speeds(model: LoraModel, data: Samples, batch: int, autocast: str) -> dict[str, float]:
    """Return samples per second of a bare step on a batch that lies on the device, and of local training."""
    device, adapter = model.device, model.snapshot(share_head=True)
    everything = Allocation(tuple(range(model.blocks.count)))
    parameters = model.set_trainable(adapter.names(everything))
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    there = data.batch(all_of(data)[:batch]).to(device)
    model.module.train()

    def bare() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast == "bfloat16"):
            found = predictions(model, there)
        cross_entropy(found.z, found.y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    several = 1 if batch > 100 else 4
    seconds = timed(device, lambda: [bare() for _ in range(several)]) / several
    settings = with_options(autocast, batch)
    work = Assignment(0, 0, adapter.names(everything), data, (0, 1, 2, 3, 4), seed=0)
    model.write(adapter.tensors)
    whole = [local_training(model, work, settings)[1]["seconds"] for _ in range(2)]
    model.write(adapter.tensors)
    return {"bare": batch / seconds, "local_training": len(data) / min(whole)}


def with_options(autocast: str, batch: int, **more: Any) -> TrainingSettings:
    """Return settings of local training; nothing is measured unless asked for."""
    return replace(SETTINGS, autocast=autocast, batch_size=batch, **({"measure_memory": False} | more))


def weights(model: LoraModel, costs: StepCosts, data: Samples, batch: int, autocast: str) -> Iterator[dict[str, Any]]:
    """Compare the predicted peak of a step with that of its tensors and of the allocator."""
    data = data.subset(all_of(data)[-2 * batch :])  # two steps, so that the second holds the optimiser's state
    L, adapter = model.blocks.count, model.snapshot(share_head=True)
    several = [(tuple(range(L)), rule) for rule in ("keep", "recompute", "compress")]
    several += [(tuple(range(L // 2, L)), "keep"), ((), "keep")]
    for blocks, rule in several[:1] if batch > 100 else several:
        allocation = Allocation(blocks, fixed_policies(rule, blocks, L))
        names = adapter.names(allocation)
        work = Assignment(0, 0, names, data, (0, 1, 2, 3, 4), seed=0, policies=allocation.policies)
        shape = data.batch(all_of(data)[:batch])
        inputs = sum(value.nbytes for value in shape.inputs.values())
        settings = with_options(autocast, batch, epochs=1)
        full = with_optimizer(costs, model, settings)
        counted = local_training(model, work, replace(settings, measure_memory=True))[1]
        process = local_training(model, work, replace(settings, measure_process=True))[1]["process_bytes"]
        model.write(adapter.tensors)
        expected = needs(full.at(shape.shape), allocation)
        yield {
            "blocks": len(blocks), "rule": rule, "predicted_saved": expected.saved_bytes,
            "saved": counted["saved_bytes"], "predicted_peak": expected.peak_bytes, "peak": counted["peak_bytes"],
            "allocator_peak": process, "inputs": inputs,
            "reserved_above": reserved(model, partial(local_training, model, work, settings)),
        }  # fmt: skip
        model.write(adapter.tensors)


def reserved(model: LoraModel, call: Callable[[], object]) -> int | None:
    """Return how far what the allocator holds of a GPU, used or not, rises above what is in use before a call."""
    if model.device.type != "cuda":
        with ProcessPeak(model.device) as peak:
            call()
        return peak.peak_bytes
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_reserved(model.device)
    call()
    return torch.cuda.max_memory_reserved(model.device) - before


if __name__ == "__main__":
    main()
