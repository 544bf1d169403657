"""Run a model over samples without training it: logits, pooled features, accuracy and loss."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.data.batches import Samples, evaluation_batches
from fedhello.model.adapter import LoraModel

BATCH_SIZE = 128


@dataclass(frozen=True)
class Evaluation:
    """How well a model does on some samples.

    Attributes:
        accuracy: Share of samples whose largest logit is the label's, within 0 … 1.
        loss: Mean of −log p(y|x).
        samples: How many, counted once per head.
    """

    accuracy: float
    loss: float
    samples: int


def evaluate(model: LoraModel, examples: Samples) -> Evaluation:
    """Score the model, with the head it holds now, on samples."""
    return _score(logits(model, examples), torch.from_numpy(examples.labels))


def evaluate_personal(
    model: LoraModel,
    examples: Samples,
    heads: Mapping[int, Mapping[str, Tensor]],
    classes: Mapping[int, tuple[int, ...]],
) -> Evaluation:
    """Score personal heads as their clients use them: each on the samples, and among the classes, that it knows.

    The result is the mean over all pairs of a head and a sample. The model's own head is put back afterwards.

    Args:
        model: Holds the shared adapter.
        examples: The samples.
        heads: Client → its head; at least one.
        classes: Client → its labels.
    """
    own_head = model.read(model.head_names)
    scores = []
    try:
        for k, head in sorted(heads.items()):
            known = examples.subset(np.flatnonzero(np.isin(examples.labels, classes[k])))
            model.write(head)
            absent = torch.ones(model.classes, dtype=torch.bool)
            absent[list(classes[k])] = False
            z = logits(model, known).masked_fill(absent, float("-inf"))
            scores.append(_score(z, torch.from_numpy(known.labels)))
    finally:
        model.write(own_head)
    total = sum(score.samples for score in scores)
    return Evaluation(
        accuracy=sum(score.accuracy * score.samples for score in scores) / total,
        loss=sum(score.loss * score.samples for score in scores) / total,
        samples=total,
    )


def logits(model: LoraModel, examples: Samples) -> Tensor:
    """Return the logits of samples, float32 on the CPU, shape (n, C)."""
    return _run(model, examples, features=False)


def pooled_features(model: LoraModel, examples: Samples) -> Tensor:
    """Return what enters the logits layer, float32 on the CPU, shape (n, d)."""
    return _run(model, examples, features=True)


def _run(model: LoraModel, examples: Samples, features: bool) -> Tensor:
    rows: list[Tensor] = []
    positions: list[np.ndarray] = []
    pooled: list[Tensor] = []
    hook = model.logits_layer.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0].detach()))
    model.module.eval()
    try:
        with torch.inference_mode():
            for part in evaluation_batches(examples.lengths(), BATCH_SIZE):
                pooled.clear()
                z = model.module(**examples.batch(part).to(model.device).inputs).logits
                rows.append((pooled[0] if features else z).float().cpu())
                positions.append(part)
    finally:
        hook.remove()
    order = np.argsort(np.concatenate(positions))
    return torch.cat(rows)[torch.from_numpy(order)].clone()


def _score(z: Tensor, labels: Tensor) -> Evaluation:
    accuracy = (z.argmax(dim=1) == labels).double().mean()
    return Evaluation(float(accuracy), float(cross_entropy(z, labels)), len(labels))
