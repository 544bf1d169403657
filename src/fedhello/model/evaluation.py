"""Evaluate a model on samples: logits, features, accuracy, F1, loss and perplexity."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedhello.data.batches import Samples, evaluation_batches
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.model.confusion import ConfusionMatrix
from fedhello.model.forward import predictions
from fedhello.model.number_type import in_bfloat16
from fedhello.registry import Registry, a_function

METRICS = Registry("metric", "run.metrics", "fedhello.metrics", a_function)
"""User-defined metrics."""


def register_metric(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a metric, to be used with ``run.metrics: [name]``.

    A metric gets the predictions for a whole data set at once and may return several numbers. It is computed with the
    accuracy whenever a classifier is scored on validation and test data. Its values are in ``Evaluation.more``,
    ``rounds.jsonl`` and the summary; those of a module's function under the function's name. A function of a module
    needs no registration: ``run.metrics: [my_module:calibration]``. An entry point of the group ``fedhello.metrics``
    works, too.

    Args:
        name: The metric's name; a registered metric of the same name is replaced.
        function: From logits (float32 on the CPU, shape (n, C)) and classes (int64, shape (n,)) of n samples to a
            finite number, or a mapping of names to such numbers. If clients keep their own heads, it is called for each
            head, with logits −∞ for the classes that its client lacks, and the result is the mean.

    Returns:
        The function.

    Raises:
        ConfigError: If ``function`` cannot be called.

    Example:
        >>> def surest(z, y):
        ...     return float(z.softmax(dim=1).max(dim=1).values.mean())
        >>> _ = register_metric("surest", surest)
    """
    return METRICS.register(name, function)


BATCH_SIZE = 128
LANGUAGE_BATCH_SIZE = 16
"""Batch size for language models, whose logits are as wide as the vocabulary."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on some samples.

    Attributes:
        accuracy: Share of correct predictions, within 0 … 1: one prediction per sample in classification, one per
            token of a response, given the correct tokens before it, in language modelling.
        loss: Mean of −log p(y|x) over predictions.
        samples: Number of samples, counted once per head.
        more: For classification ``macro_f1``, ``micro_f1`` and user-defined metrics, see ``register_metric``; for
            language modelling ``perplexity``, exp(loss).
        confusion: How often samples of each class were predicted as which class; None of a language model, of a mean
            over several models or heads, and of scores read from a file.

    Example:
        >>> fh.Evaluation(accuracy=0.5, loss=0.69, samples=10).accuracy
        0.5
    """

    accuracy: float
    loss: float
    samples: int
    more: Mapping[str, float] = field(default_factory=dict)
    confusion: ConfusionMatrix | None = field(default=None, repr=False, compare=False)


def evaluate(model: LoraModel, samples: Samples, metrics: Sequence[str] = ()) -> Evaluation:
    """Score the model, with its current adapter and head, on samples.

    Args:
        model: The model.
        samples: The samples.
        metrics: Names of user-defined metrics, for a classifier; see ``register_metric``.

    Raises:
        ConfigError: If a metric is not registered, raises, or does not return finite numbers.
    """
    if model.head_names:
        z = logits(model, samples)
        score = _classified(z, torch.from_numpy(samples.labels), metrics)
        names = [name for _, name in model.labels]
        return replace(score, confusion=ConfusionMatrix.of(samples.labels, z.argmax(dim=1).numpy(), names))
    return _spoken(model, samples)


def _classified(z: Tensor, y: Tensor, metrics: Sequence[str]) -> Evaluation:
    from sklearn.metrics import f1_score  # takes seconds to import, and a client over a network never evaluates

    predicted = z.argmax(dim=1)
    accuracy = float((predicted == y).double().mean())
    macro = float(f1_score(y, predicted, average="macro", zero_division=0.0))
    # Every sample has one label and one prediction, so micro F1 is the accuracy.
    more = {"macro_f1": macro, "micro_f1": accuracy}
    for name in metrics:
        more |= _measured(name, z, y)
    return Evaluation(accuracy, float(cross_entropy(z, y)), len(y), more)


def metric_label(name: str) -> str:
    """Return the name of a metric's values: for ``module:function`` the function's name."""
    return name.rpartition(":")[2]


def _measured(name: str, z: Tensor, y: Tensor) -> dict[str, float]:
    """Return the numbers of a user-defined metric by name."""
    found, label = METRICS.call(name, z.clone(), y.clone()), metric_label(name)
    named = {f"{label}/{key}": value for key, value in found.items()} if isinstance(found, Mapping) else {label: found}
    values = {}
    for key, value in named.items():
        try:
            values[key] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"expected the metric {name} to return a number, or a mapping of names to numbers; {key} is a "
                f"{type(value).__name__}"
            ) from error
        if not isfinite(values[key]):
            raise ConfigError(f"expected the metric {name} to return finite numbers; found {key}={values[key]}")
    return values


def _spoken(model: LoraModel, samples: Samples) -> Evaluation:
    """Score a language model batch by batch: its logits are too large to keep."""
    right, loss, tokens = 0, 0.0, 0
    model.module.eval()
    with torch.inference_mode():
        for positions in evaluation_batches(samples.lengths(), LANGUAGE_BATCH_SIZE):
            found = predictions(model, samples.batch(positions).to(model.device))
            right += int((found.z.argmax(dim=1) == found.y).sum())
            loss += float(cross_entropy(found.z, found.y, reduction="sum"))
            tokens += len(found.y)
    # exp(710) overflows a float; larger losses all count as infinite perplexity.
    return Evaluation(right / tokens, loss / tokens, len(samples), {"perplexity": exp(min(loss / tokens, 700.0))})


def _last_tokens(h: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return one feature per sample, shape (b, d); of a decoder that of the last token, by which it classifies."""
    if h.dim() == 2:
        return h
    return h[torch.arange(len(h), device=h.device), inputs["attention_mask"].sum(dim=1) - 1]


def weighted_mean(scores: Sequence[Evaluation], weights: Sequence[float], samples: int) -> Evaluation:
    """Return the mean of several evaluations.

    Args:
        scores: At least one, all of one task.
        weights: One for each.
        samples: Number of samples of the mean.
    """

    def mean(values: Iterable[float]) -> float:
        return sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)

    return Evaluation(
        mean(score.accuracy for score in scores),
        mean(score.loss for score in scores),
        samples,
        {name: mean(score.more[name] for score in scores) for name in scores[0].more},
    )


def evaluate_personal(
    model: LoraModel,
    examples: Samples,
    heads: Mapping[int, Mapping[str, Tensor]],
    classes: Mapping[int, tuple[int, ...]],
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Score personal heads as their clients use them: on samples of the client's classes, among these classes only.

    The result is the mean over all pairs of a head and a sample of its client's classes; a head without such samples
    does not count. The model's own head is restored afterwards. Features are computed once for all heads, where a head
    is the logits layer alone.

    Args:
        model: Holds the shared adapter.
        examples: The samples.
        heads: Client → its head.
        classes: Client → the labels in its data; at least one sample has one of them.
        metrics: Names of user-defined metrics; see ``register_metric``.
    """
    own_head = model.read(model.head_names)
    alone = len(model.head_names) == len(list(model.logits_layer.parameters()))
    features = pooled_features(model, examples) if alone else None
    scores = []
    try:
        for k, head in sorted(heads.items()):
            known = np.flatnonzero(np.isin(examples.labels, classes[k]))
            if not len(known):
                continue
            model.write(head)
            absent = torch.ones(model.num_labels, dtype=torch.bool)
            absent[list(classes[k])] = False
            z = logits(model, examples.subset(known)) if features is None else _through_head(model, features[known])
            labels = torch.from_numpy(examples.labels[known])
            scores.append(_classified(z.masked_fill(absent, float("-inf")), labels, metrics))
    finally:
        model.write(own_head)
    sizes = [score.samples for score in scores]
    return weighted_mean(scores, sizes, sum(sizes))


def _through_head(model: LoraModel, features: Tensor) -> Tensor:
    with torch.inference_mode():
        z: Tensor = model.logits_layer(features.to(model.device))
        return z.float().cpu()


def logits(model: LoraModel, examples: Samples) -> Tensor:
    """Return the logits of samples, float32 on the CPU, shape (n, C)."""
    return _run(model, examples, features=False)


def pooled_features(model: LoraModel, examples: Samples, bfloat16: bool = False) -> Tensor:
    """Return the features of samples, float32 on the CPU, shape (n, d).

    Args:
        model: The model.
        examples: The samples.
        bfloat16: Whether the forward pass runs in bf16.
    """
    with in_bfloat16(model, bfloat16):
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
                inputs = examples.batch(part).to(model.device).inputs
                z = model.module(**inputs).logits
                rows.append((_last_tokens(pooled[0], inputs) if features else z).float().cpu())
                positions.append(part)
    finally:
        hook.remove()
    order = np.argsort(np.concatenate(positions))
    return torch.cat(rows)[torch.from_numpy(order)].clone()
