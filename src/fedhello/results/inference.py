"""Use a trained model: classify texts, pairs of texts or images, or answer prompts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedhello.config.schema import Config
from fedhello.data.columns import read_rows
from fedhello.data.dataset import Columns, DataSet, Input, Kind, Picture
from fedhello.data.tables import Table
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import logits
from fedhello.model.generation import generate, longest_prompt
from fedhello.model.sources import CAUSAL_LM, IMAGES
from fedhello.setup.encoding import cut_prompts, encode


def infer(
    config: Config,
    labels: Sequence[str],
    model: LoraModel,
    inputs: Sequence[Any],
    seconds: Sequence[str] = (),
    probabilities: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the model makes of each input, ``label`` and ``probability`` or ``answer``, and notes on the inputs.

    Args:
        config: Of the run that the adapter is from.
        labels: The classes' names.
        model: With the adapter.
        inputs: Texts, prompts, or paths of images; of a plain module tensors or arrays.
        seconds: The second texts, for a model of text pairs.
        probabilities: Whether those of all classes are wanted too.

    Raises:
        ConfigError: If second texts are missing, or there are any where none are expected.
        DataError: If an image cannot be decoded.
    """
    if model.kind == CAUSAL_LM:
        _check_seconds(inputs, seconds, 0)
        answer_tokens = config.data.answer_tokens
        prompt_tokens = longest_prompt(model, config.data.max_length, answer_tokens)
        answers = generate(model, inputs, answer_tokens, prompt_tokens)
        said = [{"input": prompt, "answer": text} for prompt, text in zip(inputs, answers, strict=True)]
        return said, cut_prompts(prompt_tokens, model, inputs)
    kind: Kind = "images" if model.kind == IMAGES else config.data.columns.kind
    if kind == "tensors":
        inputs = read_rows(Table.of("the inputs", {"tensor": list(inputs)}), Columns(tensor="tensor"), False).inputs
    _check_seconds(inputs, seconds, len(inputs) if kind == "pairs" else 0)
    data = DataSet(_as(kind, inputs, seconds), np.zeros(len(inputs), dtype=int), tuple(labels), kind)
    samples, notes = encode(data, model, config.data.max_length, config.data.answer_tokens)
    p = logits(model, samples).softmax(dim=1)
    found: list[dict[str, Any]] = [
        {"input": text, "label": labels[int(row.argmax())], "probability": float(row.max())}
        for text, row in zip(inputs, p, strict=True)
    ]
    if probabilities:
        for one, row in zip(found, p.tolist(), strict=True):
            one["probabilities"] = dict(zip(labels, row, strict=True))
    return found, notes


def _as(kind: Kind, inputs: Sequence[Any], seconds: Sequence[str]) -> tuple[Input, ...]:
    if kind == "images":
        return tuple(Picture(Path(name), name) for name in inputs)
    return tuple(zip(inputs, seconds, strict=True)) if kind == "pairs" else tuple(inputs)


def _check_seconds(inputs: Sequence[Any], seconds: Sequence[str], expected: int) -> None:
    if len(seconds) != expected:
        raise ConfigError(
            f"expected {expected or 'no'} second texts (--pair) for {len(inputs)} inputs of this model; "
            f"found {len(seconds)}"
        )
