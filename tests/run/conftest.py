"""Language models that are small enough to train, and made-up folders of runs."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fedhello.run.config import dump_config, load_config

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
        rounds = [
            {
                "round": t,
                "clients": [{"client": 0, "tier": 0, "bytes_up": up, "bytes_down": down, "metrics": {"flops": flops}}],
                "contributors": [1, 0, 1, 0, 0, t % 2],
                "scored": False,
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
