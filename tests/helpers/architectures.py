"""Try architectures: each in a process of its own, from a saved folder over plan and training to a reloaded export.

``python tests/helpers/architectures.py`` tries all and writes the tables of docs/reference/architectures.md anew.
"""

import json
import os
import re
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from tiny_models import SIDE, TASKS, VOCABULARY, save_tiny
from torch import Tensor
from transformers import AutoConfig, AutoModel

import fedhello as fh
from fedhello.client.activations import activation_policies
from fedhello.errors import FedhelloError
from fedhello.model.loading import AUTO_CLASSES
from fedhello.model.pooling import NATIVE, PooledClassifier, class_tokens
from fedhello.model.saving import save_adapter
from fedhello.model.sources import CAUSAL_LM, IMAGES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
SECONDS, BYTES = 120, 8 << 30
"""Limits of one try."""

SETTINGS = {
    "data.clients": 2, "data.partition": {"kind": "iid"}, "data.proxy": 0, "data.deduplicate": False,
    "data.max_length": 16, "data.answers": 0, "data.answer_tokens": 8, "data.validation": 0.25, "data.test": 0.25,
    "clients.tiers": [{"share": 1, "blocks": 1}], "train.clients_per_round": 2, "train.batch_size": 4,
    "train.rounds": 1, "train.lr": 0.01, "train.autocast": "none", "train.selection": "last",
    "train.measure_memory": False, "method.name": "rgd-hla", "model.lora.rank": 2, "model.lora.dropout": 0.0,
    "model.lora.targets": "all-linear", "run.device": "cpu",
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
        status: ``works``, ``refused``, ``fails``, or ``not tried``: no tiny model could be made here.
        said: The sentence of a refusal, or the reason.
        blocks: The lists of blocks.
        count: L of the tiny model.
        pooling: How features are pooled.
        left_out: What the targets leave out, as it is said.
        whole: Whether it does not run without one of its blocks.
    """

    status: str
    said: str = ""
    blocks: tuple[str, ...] = ()
    count: int = 0
    pooling: str = ""
    left_out: str = ""
    whole: bool = False


def tried(task: str, model_type: str, **settings: Any) -> Outcome:
    """Save a tiny model of a type and put it through a run, with further settings."""
    with tempfile.TemporaryDirectory() as place:
        return apart(lambda: _attempt(task, model_type, Path(place), settings))


def apart(work: Callable[[], Outcome]) -> Outcome:
    """Run a try in a process of its own, with a limit of time and of memory."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
        try:
            found = work()
        except BaseException as error:  # the parent says what it was
            found = Outcome("fails", f"{type(error).__name__}: {_one_line(error)}")
        os.write(start, json.dumps(asdict(found)).encode())
        os._exit(0)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Outcome("fails", f"ended by signal {status}")
    read = json.loads(text)
    return Outcome(**{**read, "blocks": tuple(read["blocks"])})


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _attempt(task: str, model_type: str, place: Path, settings: Mapping[str, Any]) -> Outcome:
    try:
        save_tiny(task, model_type, place / "model")
    except Exception as error:  # whatever an architecture raises without its package or its sizes
        return Outcome("not tried", f"{type(error).__name__}: {_one_line(error)}")
    return refused_or(lambda: run(task, place / "model", place / "export", settings))


def refused_or(work: Callable[[], Outcome]) -> Outcome:
    """Return what comes of a run, or the sentence of its refusal."""
    try:
        return work()
    except FedhelloError as error:
        return Outcome("refused", str(error))


def run(task: str, model: Path, export: Path, settings: Mapping[str, Any]) -> Outcome:
    """Prepare, plan, train a round, export, and load the export with PEFT alone."""
    chosen = {**SETTINGS, **CHOICES[task], "model.name": str(model), **settings}
    session = fh.prepare({}, chosen, data=rows(task))
    notes = fh.plan(session).notes
    lora = session.model
    start = fh.start(session).state
    state, record = next(fh.rounds(session, start))
    assert len(record.report.clients) == 2, record.report.rejections
    assert any(not value.equal(start.adapter.tensors[name]) for name, value in state.adapter.tensors.items())
    rng = torch.Generator().manual_seed(1)
    trained = lora.read(lora.block_of)
    lora.write({name: value + 0.1 * torch.randn(value.shape, generator=rng) for name, value in trained.items()})
    batch = inputs(task, lora.image_shape if task == IMAGES else None)
    check_gradients(lora, batch)
    expected = logits(lora.module, batch)
    assert bool(expected.isfinite().all())
    whole = lora.blocks.count == 1 or not _runs_without(lora, 1, batch)
    save_adapter(lora, export)
    found = logits(reloaded(task, lora.pooling, model, export), batch)
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    assert difference < 1e-5, f"logits differ by {difference:.1e} after reloading"
    said = next((note for note in notes if "no adapter is put" in note), "")
    return Outcome("works", "", lora.blocks.lists, lora.blocks.count, lora.pooling, said, whole)


def _runs_without(lora: Any, block: int, batch: Mapping[str, Tensor]) -> bool:
    try:
        with lora.without_blocks([block]):
            return bool(logits(lora.module, batch).isfinite().all())
    except Exception:  # whatever an architecture raises
        return False


def rows(task: str) -> list[dict[str, Any]]:
    """Return a tiny data set."""
    if task == IMAGES:
        noise = np.random.default_rng(0).integers(0, 255, (12, SIDE, SIDE, 3), dtype=np.uint8)
        return [{"image": Image.fromarray(pixels), "label": str(i % 2)} for i, pixels in enumerate(noise)]
    texts = [" ".join(f"w{3 + (7 * i + j) % 30}" for j in range(8 + i % 3)) for i in range(12)]
    if task == CAUSAL_LM:
        return [{"prompt": text, "response": text[::-1]} for text in texts]
    return [{"text": text, "label": str(i % 2)} for i, text in enumerate(texts)]


def inputs(task: str, image: tuple[int, int, int] | None) -> dict[str, Tensor]:
    """Return a batch of two samples."""
    rng = torch.Generator().manual_seed(0)
    if image is not None:
        return {"pixel_values": torch.randn(2, *image, generator=rng)}
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=rng)
    mask = torch.ones_like(ids)
    if task != CAUSAL_LM:
        ids[1, 6:], mask[1, 6:] = 0, 0
        ids[0, 8] = ids[1, 5] = 2
    return {"input_ids": ids, "attention_mask": mask}


def logits(module: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Return a model's logits for a batch, in evaluation."""
    module.eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        found: Tensor = module(**batch).logits.float()
        return found


def check_gradients(lora: Any, batch: Mapping[str, Tensor]) -> None:
    """Check that every block has a gradient, and that recomputing the blocks changes none."""
    live = lora.set_trainable(lora.block_of)
    lora.module.train()
    found = []
    for policy in ("keep", "recompute" if lora.allows_recomputation else "keep"):
        with torch.random.fork_rng(), activation_policies(lora.block_modules(), [policy] * lora.blocks.count, id):
            torch.manual_seed(0)
            loss = lora.module(**batch).logits.float().square().sum()
            found.append(torch.autograd.grad(loss, live, allow_unused=True))
    kept = zip(sorted(lora.block_of), *found, strict=True)
    both = {name: (one, again) for name, one, again in kept if one is not None or again is not None}
    assert {lora.block_of[name] for name in both} >= set(lora.block_of.values()), "a block has no gradient"
    assert all(torch.allclose(one, again, rtol=1e-4, atol=1e-5) for one, again in both.values())


def reloaded(task: str, pooling: Any, model: Path, export: Path) -> Any:
    """Return what a user of PEFT alone loads."""
    if pooling == NATIVE:
        more = {} if task == CAUSAL_LM else {"num_labels": 2, "ignore_mismatched_sizes": True}
        return PeftModel.from_pretrained(AUTO_CLASSES[task].from_pretrained(model, **more), str(export))
    config = AutoConfig.from_pretrained(model)
    tower = getattr(config, "vision_config", None) if task == IMAGES else None
    base = AutoModel.from_pretrained(model, config=tower or config)
    saved = load_file(export / "head.safetensors")
    head = torch.nn.Linear(*reversed(saved["head.weight"].shape))
    head.load_state_dict({name.removeprefix("head."): value for name, value in saved.items()})
    return PooledClassifier(PeftModel.from_pretrained(base, str(export)), pooling, head, class_tokens(base))


def table(task: str, outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Yield the lines of the page on one task."""
    yield "| type | class | blocks | |"
    yield "|---|---|---|---|"
    for model_type, found in outcomes.items():
        names = TASKS[task][model_type]
        name = names if isinstance(names, str) else names[0]
        blocks = ", ".join(dict.fromkeys(f"`{re.sub(r'[.][0-9]+(?=[.]|$)', '.…', path)}`" for path in found.blocks))
        yield f"| {model_type} | {name} | {blocks} | {in_words(found)} |"


def in_words(found: Outcome) -> str:
    """Return a table's words on an outcome."""
    if found.status == "works":
        inside = re.findall(r"the (?:experts|blocks' \S+)", found.left_out)
        how = "" if found.pooling == NATIVE else f", pooling {found.pooling}"
        how += "; not without blocks" if found.whole and found.count > 1 else ""
        return f"works{how}" + (f"; without adapter: {', '.join(inside)}" if inside else "")
    said = re.sub(r"'?/\S*/model'?", "the folder", found.said.partition(" docs/reference")[0])
    return f"{found.status}: {said.replace('|', '/').rstrip('.')}"


def all_tried() -> dict[str, dict[str, Outcome]]:
    """Try every architecture that transformers maps to a task."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return {task: {name: tried(task, name) for name in names} for task, names in TASKS.items()}


def sections(outcomes: Mapping[str, Mapping[str, Outcome]]) -> Iterator[str]:
    """Yield the lines of the page below its introduction."""
    for task, found in outcomes.items():
        counts = Counter(outcome.status for outcome in found.values())
        yield from (f"## {task}", "", ", ".join(f"{count} {status}" for status, count in sorted(counts.items())), "")
        yield from table(task, found)
        yield ""


MARK = "<!-- written by tests/helpers/architectures.py -->"

if __name__ == "__main__":
    introduction = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text("\n".join([introduction + MARK, "", *sections(all_tried())]), encoding="utf-8")
