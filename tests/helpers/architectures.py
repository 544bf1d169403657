"""Try architectures: each in a process of its own, from a saved folder over plan and training to a reloaded export."""

import json
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.tiny_models import SIDE, VOCABULARY, save_tiny
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

import fedhello as fh
from fedhello.client.activations import activation_policies
from fedhello.errors import FedhelloError
from fedhello.model.loading import AUTO_CLASSES
from fedhello.model.pooling import PooledClassifier, class_tokens

SECONDS, BYTES = 60, 8 << 30
"""Limits of one try."""

SETTINGS = {
    "data.clients": 2, "data.partition": {"kind": "iid"}, "data.proxy": 0, "data.deduplicate": False,
    "data.max_length": 16, "data.answers": 0, "data.answer_tokens": 8, "data.validation": 0.25, "data.test": 0.25,
    "clients.tiers": [{"share": 1, "blocks": 1}],
    "train.clients_per_round": 2, "train.batch_size": 4, "train.rounds": 1, "train.lr": 0.01,
    "train.autocast": "none", "train.selection": "last", "method.name": "rgd-hla",
    "model.lora.rank": 2, "model.lora.dropout": 0.0, "run.device": "cpu", "train.measure_memory": False,
}  # fmt: skip

CHOICES: dict[str, dict[str, Any]] = {
    "text-classification": {"model.head": "aggregate"},
    "image-classification": {"model.head": "aggregate", "data.image": "image"},
    "causal-lm": {"model.head": "none", "data.prompt": "{prompt}", "data.response": "{response}"},
}


@dataclass(frozen=True)
class Outcome:
    """What came of a try.

    Attributes:
        status: ``works``, ``refused``, ``not built`` (no tiny model could be made here) or ``fails``.
        said: The sentence of a refusal, or the reason.
        blocks: Path of the blocks.
        count: L.
        pooling: How features are pooled.
        targets: The chosen target set.
        left_out: What the target set leaves out, as it is said.
    """

    status: str
    said: str = ""
    blocks: str = ""
    count: int = 0
    pooling: str = ""
    targets: str = ""
    left_out: str = ""


def rows(task: str) -> list[dict[str, Any]]:
    """Return a tiny data set."""
    if task == "image-classification":
        noise = np.random.default_rng(0).integers(0, 255, (12, SIDE, SIDE, 3), dtype=np.uint8)
        shades = [Image.fromarray(pixels) for pixels in noise]
        return [{"image": shade, "label": str(i % 2)} for i, shade in enumerate(shades)]
    texts = [" ".join(f"w{3 + (7 * i + j) % 30}" for j in range(8 + i % 3)) for i in range(12)]
    if task == "causal-lm":
        return [{"prompt": text, "response": text[::-1]} for text in texts]
    return [{"text": text, "label": str(i % 2)} for i, text in enumerate(texts)]


def inputs(task: str, module: Any, side: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Return a batch of two samples."""
    rng = torch.Generator().manual_seed(0)
    if task == "image-classification":
        return {"pixel_values": torch.randn(2, *side, generator=rng)}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=rng)
    mask = torch.ones_like(ids)
    if task == "text-classification":
        ids[1, 6:], mask[1, 6:] = 0, 0
        ids[0, 8] = ids[1, 5] = 2
    return {"input_ids": ids, "attention_mask": mask}


def logits(module: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a model's logits for a batch, in evaluation."""
    module.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return module(**batch).logits.float()


def reloaded(task: str, pooling: str, model: Path, export: Path) -> Any:
    """Return what a user of PEFT alone loads."""
    if pooling != "native":
        config = AutoModel.from_pretrained(model).config if False else None
        from transformers import AutoConfig

        whole = AutoConfig.from_pretrained(model)
        config = getattr(whole, "vision_config", None) if task == "image-classification" else None
        base = AutoModel.from_pretrained(model, config=config or whole)
        head = load_file(export / "head.safetensors")
        layer = torch.nn.Linear(*reversed(head["head.weight"].shape))
        layer.load_state_dict({name.removeprefix("head."): value for name, value in head.items()})
        return PooledClassifier(PeftModel.from_pretrained(base, str(export)), pooling, layer, class_tokens(base))
    more = {} if task == "causal-lm" else {"num_labels": 2, "ignore_mismatched_sizes": True}
    return PeftModel.from_pretrained(AUTO_CLASSES[task].from_pretrained(model, **more), str(export))


def attempt(task: str, model_type: str, place: Path, **settings: Any) -> Outcome:
    """Save a tiny model and put it through a run."""
    model = place / "model"
    try:
        save_tiny(task, model_type, model)
    except Exception as error:  # whatever an architecture raises without its package or its sizes
        return Outcome("not built", f"{type(error).__name__}: {' '.join(str(error).split())}")
    try:
        return run(task, model, place, settings)
    except FedhelloError as error:
        return Outcome("refused", str(error))


def run(task: str, model: Path, place: Path, settings: dict[str, Any]) -> Outcome:
    """Prepare, plan, train a round, export and reload."""
    chosen = {**SETTINGS, **CHOICES[task], "model.name": str(model), "model.lora.targets": "all-linear", **settings}
    session = fh.prepare({}, chosen, data=rows(task))
    planned = fh.plan(session)
    lora = session.model
    start = fh.start(session).state
    state, record = next(fh.rounds(session, start))
    assert record.report.failed is None and len(record.report.clients) == 2, record.report
    moved = {name for name, value in state.adapter.tensors.items() if not value.equal(start.adapter.tensors[name])}
    assert moved, "nothing was trained"
    names = {name: value + 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) for name, value in lora.read(lora.block_of).items()}
    lora.write(names)
    check_gradients(task, lora)
    batch = inputs(task, lora.module, lora.image_shape if task == "image-classification" else (0, 0, 0))
    expected = logits(lora.module, batch)
    assert expected.isfinite().all(), "not finite"
    from fedhello.model.saving import save_adapter

    save_adapter(lora, place / "export")
    found = logits(reloaded(task, lora.pooling, model, place / "export"), batch)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    assert difference < 1e-5, f"logits differ by {difference:.1e} after reloading"
    left_out = " | ".join(note for note in planned.notes if "no adapter is put" in note)
    return Outcome("works", "", ", ".join(lora.blocks.lists), lora.blocks.count, lora.pooling, chosen["model.lora.targets"], left_out)


def check_gradients(task: str, lora: Any) -> None:
    """Check that every tensor of the adapter trains, and that recomputing blocks changes no gradient."""
    batch = inputs(task, lora.module, lora.image_shape if task == "image-classification" else (0, 0, 0))
    live = lora.set_trainable(lora.block_of)
    lora.module.train()
    found = {}
    for policy in ("keep", "recompute"):
        with torch.random.fork_rng(), activation_policies(lora.block_modules(), [policy] * lora.blocks.count, id):
            torch.manual_seed(0)
            loss = lora.module(**batch).logits.float().square().sum()
            found[policy] = torch.autograd.grad(loss, live, allow_unused=True)
    idle = [name for name, grad in zip(sorted(lora.block_of), found["keep"], strict=True) if grad is None]
    assert not idle, f"without a gradient: {', '.join(idle[:4])} ({len(idle)})"
    pairs = zip(found["keep"], found["recompute"], strict=True)
    assert all(again is not None and torch.allclose(one, again, rtol=1e-4, atol=1e-5) for one, again in pairs), "recomputed gradients differ"


def apart(work: Callable[[], Outcome], seconds: int = SECONDS) -> Outcome:
    """Run a try in a process of its own, with a limit of time and of memory."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        signal.alarm(seconds)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 - the parent says what it was
            where = traceback.extract_tb(error.__traceback__)
            own = [f"{Path(f.filename).name}:{f.lineno}" for f in where]
            found = Outcome("fails", f"{type(error).__name__}: {' '.join(str(error).split())[:300]} @ {' '.join(own[-6:])}")
        os.write(start, json.dumps(asdict(found)).encode())
        os._exit(0)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return Outcome(**json.loads(text)) if text else Outcome("fails", f"ended by signal {status}")


def tried(task: str, model_type: str, **settings: Any) -> Outcome:
    """Try one architecture for a task."""
    with tempfile.TemporaryDirectory() as place:
        return apart(lambda: attempt(task, model_type, Path(place), **settings))
