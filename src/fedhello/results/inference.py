"""Use a trained model: classify texts, pairs of texts or images, answer prompts, or evaluate it on labelled data."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedhello import embedded
from fedhello.client.trial import bfloat16_pays
from fedhello.config.schema import Config, DataConfig
from fedhello.config.units import check_encoding
from fedhello.data import sources
from fedhello.data.batches import Samples, Tensors
from fedhello.data.columns import read_rows
from fedhello.data.dataset import UNNAMED, Columns, DataSet, Input, Kind
from fedhello.data.embedded_sets import embedded_source
from fedhello.data.folders import IMAGE_COLUMNS
from fedhello.data.memory import memory_source, plain_value
from fedhello.data.names import HALF, clean
from fedhello.data.tables import Source, Table
from fedhello.errors import ConfigError, DataError, FedhelloError
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import Evaluation, evaluate, logits
from fedhello.model.generation import generate, longest_prompt
from fedhello.model.number_type import in_bfloat16
from fedhello.model.sources import CAUSAL_LM, IMAGES
from fedhello.results.trained import Trained, known_metrics
from fedhello.setup.encoding import cut_prompts, encode, longest_answer

PART: Mapping[Kind, int] = {"images": 128, "instructions": 64}
"""Inputs that are encoded and run at once, by kind, so that the memory does not grow with their number."""

MOST_AT_ONCE = 1024
"""The same of other kinds."""


def infer(
    config: Config,
    labels: Sequence[str],
    model: LoraModel,
    inputs: Sequence[Any],
    seconds: Sequence[str] = (),
    probabilities: bool = False,
    top: int | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the prediction for each input, ``label`` and ``probability`` or ``answer``, and notes on the inputs.

    Args:
        config: The configuration of the adapter's run.
        labels: The classes' names.
        model: The model with its adapter.
        inputs: Texts, prompts, or images: paths, bytes of files, images of Pillow or uint8 arrays; for a plain module
            tensors or arrays.
        seconds: The second texts, for a model of text pairs.
        probabilities: Whether to return the probabilities of all classes.
        top: The number of likeliest classes whose probabilities are returned as ``top``; None for none.

    Raises:
        ConfigError: If second texts are missing, or are given for a model without pairs, or ``top`` is below 1.
        DataError: If a text is blank, an image cannot be decoded, or a plain module does not accept the tensors.
    """
    _check_texts("input", inputs, blank=model.kind == IMAGES)
    _check_texts("second text", seconds)
    kind = input_kind(config, model)
    if kind == "tensors":
        inputs = read_rows(Table.of("the inputs", {"tensor": list(inputs)}), Columns(tensor="tensor"), False).inputs
    _check_seconds(inputs, seconds, len(inputs) if kind == "pairs" else 0)
    found: list[dict[str, Any]] = []
    notes: list[str] = []
    size = PART.get(kind, MOST_AT_ONCE)
    for first in range(0, len(inputs), size):
        part = inputs[first : first + size]
        given = _as(kind, part, seconds[first : first + size], first)
        place = partial(_numbered, first)
        rows, more = infer_part(config, labels, model, given, place, probabilities, top)
        found += [{"input": one, **row} for one, row in zip(part, rows, strict=True)]
        notes += more
    return found, added_up(notes, len(inputs))


def _numbered(first: int, i: int) -> str:
    return f"input {first + i + 1}"


def input_kind(config: Config, model: LoraModel) -> Kind:
    """Return the kind of inputs that a run's model takes."""
    if model.kind == CAUSAL_LM:
        return "instructions"
    return "images" if model.kind == IMAGES else config.data.columns.kind


def infer_part(
    config: Config,
    labels: Sequence[str],
    model: LoraModel,
    inputs: Sequence[Input],
    place: Callable[[int], str],
    probabilities: bool = False,
    top: int | None = None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the prediction for each of some inputs, which are run at once, and notes on them.

    Args:
        config: The configuration of the adapter's run.
        labels: The classes' names.
        model: The model with its adapter.
        inputs: Inputs as in a data set; for a language model prompts.
        place: Returns what messages call an input.
        probabilities: Whether to return the probabilities of all classes.
        top: See ``infer``.

    Raises:
        ConfigError: If ``top`` is below 1.
        DataError: If an image cannot be decoded, or a plain module does not accept the tensors.
    """
    if top is not None and top < 1:
        raise ConfigError(f"expected top to be 1 or more; found {top}")
    kind = input_kind(config, model)
    if kind == "instructions":
        prompts = [str(one) for one in inputs]
        answer_tokens = config.data.answer_tokens
        prompt_tokens = longest_prompt(model, config.data.max_length, answer_tokens)
        answers = generate(model, prompts, answer_tokens, prompt_tokens)
        return [{"answer": text} for text in answers], cut_prompts(prompt_tokens, model, prompts)
    data = DataSet(tuple(inputs), np.zeros(len(inputs), dtype=int), tuple(labels), kind, place=place)
    samples, notes = encode(data, model, config.data.max_length, config.data.answer_tokens)
    with _taken(samples, model):
        p = logits(model, samples).softmax(dim=1)
    best, classes = p.sort(dim=1, descending=True, stable=True)
    found: list[dict[str, Any]] = [
        {"label": labels[first], "probability": largest}
        for first, largest in zip(classes[:, 0].tolist(), best[:, 0].tolist(), strict=True)
    ]
    if probabilities:
        for one, row in zip(found, p.tolist(), strict=True):
            one["probabilities"] = dict(zip(labels, row, strict=True))
    if top is not None:
        for one, cs, ps in zip(found, classes[:, :top].tolist(), best[:, :top].tolist(), strict=True):
            one["top"] = {labels[c]: probability for c, probability in zip(cs, ps, strict=True)}
    return found, notes


def added_up(notes: Iterable[str], total: int) -> list[str]:
    """Return notes on parts of some inputs as notes on all of them: numbers of the same are added up.

    Example:
        >>> added_up(["1 of 3 texts were cut", "as it is", "2 of 4 texts were cut", "as it is"], 9)
        ['3 of 9 texts were cut', 'as it is']
    """
    sums: dict[str, int | None] = {}
    for note in notes:
        match = re.fullmatch(r"(\d+) of \d+ (.*)", note, re.DOTALL)
        if match:
            sums[match[2]] = int(match[1]) + (sums.get(match[2]) or 0)
        else:
            sums[note] = None
    return [what if count is None else f"{count} of {total} {what}" for what, count in sums.items()]


@contextmanager
def _taken(samples: Samples, model: LoraModel) -> Iterator[None]:
    """Turn any exception of a plain module, on samples of another shape or type, into a ``DataError``."""
    try:
        yield
    except Exception as error:
        if not isinstance(samples, Tensors) or isinstance(error, (FedhelloError, torch.OutOfMemoryError)):
            raise
        raise DataError(
            f"expected tensors such as {model.source.base_name} was trained on; it raised {type(error).__name__} on "
            f"samples of shape {samples.values.shape[1:]} and type {samples.values.dtype}: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _as(kind: Kind, inputs: Sequence[Any], seconds: Sequence[str], first: int) -> tuple[Input, ...]:
    if kind == "images":
        return _pictures(inputs, first)
    return tuple(zip(inputs, seconds, strict=True)) if kind == "pairs" else tuple(inputs)


def _pictures(inputs: Sequence[Any], first: int) -> tuple[Input, ...]:
    plain = [
        str(image) if isinstance(image, Path) else plain_value(image, f"row {first + i + 1} of the inputs")
        for i, image in enumerate(inputs)
    ]
    table = replace(Table.of("the inputs", {"image": plain}), place=lambda row: f"row {first + row + 1}")
    return tuple(read_rows(table, IMAGE_COLUMNS, labelled=False).inputs)


def _check_texts(name: str, texts: Sequence[Any], blank: bool = False) -> None:
    """Check that texts are Unicode and, unless they may be, not blank, as those of training data."""
    for i, text in enumerate(texts):
        if isinstance(text, str) and HALF.search(text):
            raise DataError(f"expected Unicode text; {name} {i + 1} has half of a character, or bytes, not UTF-8")
        if isinstance(text, str) and not blank and not clean(text):
            raise DataError(f"expected a text in each {name}; {name} {i + 1} of {len(texts)} is blank. Leave it out.")


def _check_seconds(inputs: Sequence[Any], seconds: Sequence[str], expected: int) -> None:
    if len(seconds) != expected:
        raise ConfigError(
            f"expected {expected or 'no'} second texts of pairs for {len(inputs)} inputs of this model; "
            f"found {len(seconds)}"
        )


def score(
    trained: Trained,
    data: Any,
    split: str | None = None,
    columns: Mapping[str, Any] | None = None,
    encoding: str | None = None,
) -> tuple[Evaluation, list[str]]:
    """Evaluate a model on labelled data, in the number type of its run's evaluation.

    Args:
        trained: The model, with the run's configuration and classes.
        data: A name as in ``data.name``, a path, or a data set in memory.
        split: The name of one of its splits.
        columns: Role of a column → its name in the data, if it differs from the run's.
        encoding: Of tables that are not UTF-8; None takes that of the run.

    Returns:
        The scores, and notes on the samples.

    Raises:
        ConfigError: If ``columns`` names an unknown role, or the encoding is not known.
        DataError: If the data cannot be read, are of another kind, or have a label that is not a class of the run.
    """
    config, model = trained.config, trained.model
    wanted = run_columns(config.data, model)
    named = renamed(wanted, columns or {})
    by_name = isinstance(data, (str, Path))
    check_encoding(encoding)
    encoding = encoding or config.data.encoding
    whole = sources.open_source(str(data), "data", encoding) if by_name else memory_source(data, named, {})
    source = _one_table(whole, split)
    skip = config.data.on_bad_image == "skip"
    found = sources.load(
        source.name, named, deduplicate=False, skip_bad_images=skip, classes=trained.labels, source=source
    )
    if found.kind != wanted.kind:
        raise DataError(f"expected {wanted.kind}, as in the run; {source.name} holds {found.kind}")
    samples, notes = encode(found, model, config.data.max_length, config.data.answer_tokens)
    metrics, missing = known_metrics(config.run.metrics)
    train = config.train
    answer = longest_answer(samples, np.arange(len(samples)))
    fast = train.autocast == "auto" and bfloat16_pays(model, train.batch_size, samples.lengths(), answer)
    with in_bfloat16(model, fast or train.autocast == "bfloat16"), _taken(samples, model):
        return evaluate(model, samples, metrics), [*found.notes, *notes, *missing]


def _one_table(source: Source, split: str | None) -> Source:
    splits = source.splits
    chosen = next(iter(splits)) if split is None and len(splits) == 1 else split
    if chosen is None or chosen not in splits:
        found = "" if split is None else f"; found {split!r}"
        raise DataError(f"expected split to be one of those of {source.name}, {', '.join(map(repr, splits))}{found}")
    return Source(source.name, {"": splits[chosen]}, source.columns)


def run_columns(data: DataConfig, model: LoraModel) -> Columns:
    """Return the columns of a run, including those that its data set defines itself."""
    asked = replace(data.columns, group=None)
    if asked != UNNAMED:
        return asked
    if data.name.startswith(embedded.PREFIX):
        return embedded_source(data.name).columns or UNNAMED
    return IMAGE_COLUMNS if model.kind == IMAGES else UNNAMED


def renamed(columns: Columns, names: Mapping[str, Any]) -> Columns:
    """Return columns of which some have other names.

    Raises:
        ConfigError: If a role is not known.
    """
    known = [field.name for field in fields(Columns) if field.name != "group"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"expected columns for {', '.join(known)}; found {unknown[0]!r}")
    texts = names.get("text", columns.text)
    if not isinstance(texts, str):
        texts = tuple(texts) if len(texts) > 1 else texts[0]
    return replace(columns, **{**names, "text": texts})
