"""Small models, data and federations that every test can afford, and the command line in this process."""

import contextlib
import gc
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FEDHELLO_CACHE"] = ""

# Every call of a function in these modules is checked against its annotations, the shapes of tensors among them. An int
# is a float, as for mypy.
SHAPED = ["aggregation", "allocation", "factors", "model.head", "model.statistics"]
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook([f"fedhello.{module}" for module in SHAPED], CHECKER)

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fedhello.cli import main as cli
from fedhello.client import calibration
from fedhello.client.cost_model import POLICIES
from fedhello.config.load import dump_config, load_config
from fedhello.data.batches import Examples
from fedhello.data.ragged import Ragged
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import attention_of
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import ModelSource, resolve
from fedhello.types import Budget, Client, Federation


def pytest_collection_finish():
    """Spare the collector of garbage what lives as long as the tests: imported modules, and thousands of test items."""
    gc.collect()
    gc.freeze()


hypothesis.settings.register_profile("tests", deadline=None)  # other processes slow an example down
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def calibrated_once():
    """Count bytes and FLOPs of a model of one architecture once, wherever sessions are prepared: values change neither.

    Tests of the counting itself have imported ``calibrate`` before, and call it as it is.
    """
    known, counted = {}, calibration.calibrate

    def calibrate(model, autocast=False, policies=POLICIES, answer=None, train_head=True):
        config = getattr(model.module, "config", None)
        shape = str(model.module), config.to_json_string() if hasattr(config, "to_json_string") else config
        dtypes = tuple((name, value.dtype) for name, value in model.module.named_parameters())
        more = attention_of(model), model.kind, model.pooling, model.longest_input, model.device, model.frozen_dropout
        key = repr((shape, dtypes, more, autocast, sorted(policies), answer, train_head))
        if key not in known:
            known[key] = counted(model, autocast, policies, answer, train_head)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedhello.network.preparation.calibrate", calibrate)
        patch.setattr("fedhello.setup.training.calibrate", calibrate)
        yield


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., LoraModel]:
    """A BERT classifier with random weights: L blocks of width 8, C classes, LoRA of rank 2."""

    def build(
        blocks: int = 3,
        classes: int = 3,
        dropout: float = 0.0,
        seed: int = 0,
        width: int = 8,
        attention: str = "sdpa",
    ) -> LoraModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = BertConfig(
                vocab_size=50,
                hidden_size=width,
                num_hidden_layers=blocks,
                num_attention_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=32,
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
                num_labels=classes,
                attn_implementation=attention,
            )
            base = FoundationModel(BertForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
        return attach_lora(base, num_labels=classes, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=seed)

    return build


@pytest.fixture(scope="session")
def tiny_decoder() -> Callable[..., LoraModel]:
    """A Llama classifier with random weights: L blocks, heads that share keys in pairs, LoRA of rank 2."""

    def build(blocks: int = 3, attention: str = "sdpa", width: int = 16) -> LoraModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=50,
                hidden_size=width,
                num_hidden_layers=blocks,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=2 * width,
                max_position_embeddings=64,
                pad_token_id=0,
                num_labels=3,
                attn_implementation=attention,
            )
            base = FoundationModel(LlamaForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
        return attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)

    return build


@pytest.fixture
def random_examples() -> Callable[..., Examples]:
    """Random token sequences of 3 to 9 tokens with random labels."""

    def build(samples: int = 12, classes: int = 3, seed: int = 0) -> Examples:
        rng = np.random.default_rng(seed)
        tokens = Ragged.of(rng.integers(1, 50, size=rng.integers(3, 10)) for _ in range(samples))
        return Examples(tokens, rng.integers(classes, size=samples), pad=0)

    return build


@pytest.fixture
def federation() -> Callable[..., Federation]:
    """One client per capacity given, each its own tier unless capacities repeat."""

    def build(capacities: list[int], blocks: int, clients_per_round: int | None = None, seed: int = 0) -> Federation:
        tiers = sorted(set(capacities))
        clients = tuple(
            Client(k, tiers.index(c), Budget(c), samples=10 + k, classes=(0, 1)) for k, c in enumerate(capacities)
        )
        return Federation(clients, tuple(Budget(c) for c in tiers), blocks, clients_per_round or len(clients), seed)

    return build


TINY = """
model: {name: ./tiny, lora: {rank: 4, alpha: 4}}
data: {name: texts.csv, clients: 4, proxy: 4, max_length: 16, partition: {kind: iid}}
clients: {tiers: [{share: 1/2, blocks: 1}, {share: 1/2, blocks: 3}]}
train: {rounds: 2, clients_per_round: 2, lr: 1e-2}
"""


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with a model of three blocks with random weights, 80 texts of two classes, and tiny.yaml for both."""
    place = tmp_path_factory.mktemp("workplace")
    (place / "tiny").mkdir()
    for file in Path(resolve("embedded:minilm").location).glob("*token*"):
        shutil.copy(file, place / "tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
        )
        BertForSequenceClassification(config).save_pretrained(place / "tiny")
    words = {"fruit": ["apple", "pear", "plum", "cherry"], "metal": ["iron", "copper", "zinc", "silver"]}
    rows = [f"{word} number {i},{kind}" for kind, group in words.items() for i in range(10) for word in group]
    (place / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (place / "tiny.yaml").write_text(TINY)
    return place


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """The working directory: a folder with the workplace's files beside."""
    for name in ("tiny", "texts.csv", "tiny.yaml"):
        (tmp_path / name).symlink_to(workplace / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def call():
    """Run the command line in this process, in a folder; return exit code, standard output and standard error."""

    def run(folder, *words):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
            patch.setattr(sys, "argv", ["fedhello", *map(str, words)])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            if words and words[0] in ("run", "resume"):  # what draws would take a third of a tiny run's time
                patch.setattr("fedhello.report.html.drawing_library", lambda: "")
            try:
                cli.main()
            except SystemExit as exit_:
                code = exit_.code
        return code, out.getvalue(), err.getvalue()

    return run


@pytest.fixture
def remote_world(tiny_model, random_examples, federation):
    """A network of workers in this process, an engine over it, and the local engine to compare with."""
    from fedhello.engine.local import LocalEngine
    from fedhello.network.worker import Prepared
    from network import SETTINGS, Network, remote_engine, remote_facts

    def build(clients=3, clients_per_round=None, over_selection=1.0, settings=SETTINGS, **more):
        there = federation([1, 2, 3][:clients], blocks=3, clients_per_round=clients_per_round)
        there = replace(there, over_selection=over_selection)
        data = {k: random_examples(samples=10 + k, seed=k) for k in range(clients)}
        facts = [remote_facts(k, 10 + k) for k in range(clients)]
        prepared = {}
        for k in range(clients):
            model = tiny_model(blocks=3)
            prepared[k] = Prepared(model, data[k], settings, facts[k], 0, model.read(model.block_of))
        network = Network()
        engine = remote_engine(network, there, facts, settings, prepared, **more)
        return network, engine, LocalEngine(tiny_model(blocks=3), there, data, settings, run="this-run")

    return build


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="session")
def make_speaker():
    """Save a language model with random weights, whose tokens are words, into a folder."""

    def make(folder, words, blocks, width=32):
        known = ["[PAD]", "[UNK]", "<end>", "<user>", "<assistant>", *words]
        plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
        plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]", eos_token="<end>"
        )
        tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>"]})
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = LlamaConfig(
                vocab_size=len(known), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=blocks,
                num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0,
                bos_token_id=None, eos_token_id=2,
            )  # fmt: skip
            LlamaForCausalLM(config).save_pretrained(folder)

    return make


@pytest.fixture
def made_up(tmp_path):
    """Write the folder of a run that never took place, with the numbers given."""

    def write(
        name,
        method,
        seed,
        accuracies,
        *overrides,
        start=0.5,
        up=1000,
        down=3000,
        before=200,
        peaks=(2e6, 5e6),
        flops=1e9,
        status="finished",
    ):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        words = [
            f"method.name={method}",
            f"run.seed={seed}",
            "clients.tiers=[{share: 1/2, blocks: 1}, {share: 1/2, blocks: 6}]",
        ]
        (folder / "config.yaml").write_text(dump_config(load_config(None, ["train.lr=2e-3", *words, *overrides])))
        client = {"client": 0, "tier": 0, "blocks": [0, 2], "policies": [], "samples": 10}
        client |= {"bytes_up": up, "bytes_down": down, "metrics": {} if flops is None else {"flops": flops}}
        rounds = [
            {
                "round": t,
                "clients": [client],
                "contributors": [1, 0, 1, 0, 0, t % 2],
                "scores": None,
                "scored": False,
                "train_loss": 1.0,
                "seconds": 0.5,
                "evaluation_seconds": 0.1,
                "validation": {"accuracy": accuracy, "loss": 1.0, "samples": 10},
                "test": {"accuracy": accuracy, "loss": 1.0, "samples": 40},
            }
            for t, accuracy in enumerate(accuracies)
        ]
        (folder / "rounds.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rounds))
        summary = {
            "status": status,
            "method": method,
            "model": "some/model",
            "seed": seed,
            "rounds": len(rounds),
            "metric": "test accuracy",
            "start": start,
            "final": accuracies[-1],
            "mean_last_5": sum(accuracies[-5:]) / len(accuracies[-5:]),
            "best_on_validation": max(accuracies),
            "bytes_up": before + up * len(rounds),
            "bytes_down": down * len(rounds),
            "wall_seconds": 2.0,
            "train_seconds": 1.5,
            "samples_per_second": 10.0,
            "tiers": [
                {"budget": {"blocks": blocks}, "measured_peak_bytes": peak}
                for blocks, peak in zip((1, 6), peaks, strict=True)
            ],
            "versions": {"fedhello": "0"},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


@pytest.fixture
def two_methods(made_up, tmp_path):
    """Two methods with two seeds: fed-hello 0.7 and 0.8, gd-hla 0.6 and 0.9 at the end."""
    made_up("fed-hello-seed0", "fed-hello", 0, [0.6, 0.7, 0.7, 0.7, 0.7, 0.7])
    made_up("fed-hello-seed1", "fed-hello", 1, [0.7, 0.8, 0.8, 0.8, 0.8, 0.8])
    made_up("gd-hla-seed0", "gd-hla", 0, [0.6] * 6, up=500)
    made_up("gd-hla-seed1", "gd-hla", 1, [0.9] * 6, up=500, peaks=(3e6, 4e6))
    return [tmp_path / f"{method}-seed{seed}" for method in ("fed-hello", "gd-hla") for seed in (0, 1)]
