"""Encode a data set for a model: as tokens, pixels or tensors."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from fedhello.data import cache
from fedhello.data.batches import Examples, Images, Pixels, Samples, Tensors
from fedhello.data.dataset import DataSet, Kind, Picture, taken
from fedhello.data.encoding import LEAST_PROMPT, rendered, tokenise, tokenise_instructions, tokenise_prompts
from fedhello.data.partition import members
from fedhello.data.pictures import DecodedLater, check, decode
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.digest import processor_digest
from fedhello.model.generation import rouge_scorer
from fedhello.model.images import Preparation, stated_size
from fedhello.model.sources import IMAGES
from fedhello.model.sources import Kind as ModelKind
from fedhello.randomness import generator

MODEL_KINDS: Mapping[Kind, ModelKind] = {
    "texts": "text-classification",
    "pairs": "text-classification",
    "images": "image-classification",
    "tensors": "tensor-classification",
    "instructions": "causal-lm",
}
"""Task and input of a model, by the kind of samples."""

IN_MEMORY = 2**30
"""The most bytes of pixels for which all images are decoded at the start; otherwise each batch decodes its own."""


def encode(data: DataSet, model: LoraModel, max_length: int, answer_tokens: int = 0) -> tuple[Samples, list[str]]:
    """Return the samples encoded for the model, and notes on changes such as cut texts.

    Args:
        data: The samples.
        model: The model.
        max_length: The most tokens of a text; longer texts are cut.
        answer_tokens: For a language model, the most tokens of an answer.

    Raises:
        ConfigError: If the model accepts fewer tokens than ``max_length``.
        DataError: If an image cannot be decoded, or a response is empty.
        ModelError: If the tokenizer cannot pad, or the image processor does not fit the model.
    """
    if data.kind == "images":
        return _images(data, model)
    if data.kind == "tensors":
        return Tensors(np.stack(tensors_of(data)), data.labels), []
    longest = model.longest_input
    if longest is not None and max_length > longest:
        raise ConfigError(
            f"expected data.max_length to be at most {longest}, the positions of {model.source.base_name}; "
            f"found {max_length}"
        )
    if model.tokenizer.pad_token_id is None:
        raise ModelError(
            f"expected the tokenizer of {model.source.base_name} to have a padding token; it has none. "
            "Name one of its tokens in model.pad_token."
        )
    if data.kind == "instructions" and longest is not None and answer_tokens + LEAST_PROMPT > longest:
        raise ConfigError(
            f"expected data.answer_tokens to leave room for a prompt within {longest} tokens, the positions of "
            f"{model.source.base_name}; found {answer_tokens}"
        )
    examples, cut = _tokens(data, model, max_length)
    kept = f"{cut} of {len(examples)} texts were cut to data.max_length, {max_length} tokens"
    return examples, [kept] if cut else []


def reader_of(model: LoraModel) -> str:
    """Return the digest of the tokenizer or the image processor that encodes samples for a model."""
    return processor_digest(model.processor, model.preparation if model.kind == IMAGES else None)


def tensors_of(data: DataSet) -> list[np.ndarray]:
    """Return the samples of a data set of tensors."""
    return [sample for sample in data.inputs if isinstance(sample, np.ndarray)]


def _tokens(data: DataSet, model: LoraModel, max_length: int) -> tuple[Examples, int]:
    """Tokenise, or read the tokens from the cache."""
    key = _key(data, model, max_length) if len(data) >= cache.LEAST and cache.folder() is not None else None
    found = cache.load(key, data.labels)
    if found is None:
        found = _tokenised(data, model, max_length)
        cache.store(key, *found)
    return found


def _key(data: DataSet, model: LoraModel, max_length: int) -> str | None:
    """Return the cache key of a data set's tokens."""
    texts = [sample for sample in data.inputs if isinstance(sample, (str, tuple))]
    # A chat template may insert today's date, which is not in the key otherwise; one rendered text contains it.
    written = rendered("prompt", "response", model.tokenizer) if data.kind == "instructions" else ()
    return cache.key_of(model.tokenizer, texts, data.kind, max_length, written)


def _tokenised(data: DataSet, model: LoraModel, max_length: int) -> tuple[Examples, int]:
    pairs = [sample for sample in data.inputs if isinstance(sample, tuple)]
    if data.kind == "instructions":
        return tokenise_instructions(pairs, data.labels, model.tokenizer, max_length, data.place)
    if data.kind == "pairs":
        first, second = zip(*pairs, strict=True)
        return tokenise(first, data.labels, model.tokenizer, max_length, second, data.place)
    texts = [sample for sample in data.inputs if isinstance(sample, str)]
    return tokenise(texts, data.labels, model.tokenizer, max_length, place=data.place)


def _images(data: DataSet, model: LoraModel) -> tuple[Images, list[str]]:
    """Prepare images like the model's image processor; a note describes the assumptions without one."""
    how = model.preparation
    channels, height, width = how.shape
    notes = _check_size(model, how)
    pictures = [sample for sample in data.inputs if isinstance(sample, Picture)]
    pixels: Pixels
    changes: Counter[str] = Counter()
    if len(pictures) * channels * height * width <= IN_MEMORY:
        pixels = decode(pictures, (height, width), channels=channels, scale=how.scale, changes=changes)
    else:
        check(pictures, changes)  # in a round, a damaged image would be an error of its client only
        pixels = DecodedLater(tuple(pictures), (height, width), channels, how.scale)
    notes += [f"{count} of {len(pictures)} images {change}" for change, count in sorted(changes.items())]
    return Images(pixels, np.arange(len(pictures)), data.labels, how.mean, how.std), notes


def _check_size(model: LoraModel, how: Preparation) -> list[str]:
    """Check that the model accepts images of the prepared size; return notes on assumptions."""
    name, (_, height, width) = model.source.base_name, how.shape
    if how.scale is None:
        return [
            f"{name} has no image processor; images are scaled to {height}×{width}, its image_size, and normalised to "
            "−1 … 1"
        ]
    base = model.base
    stated = stated_size(base.config)
    if stated is None or (height, width) == stated:
        return []
    model.module.eval()
    try:
        with torch.inference_mode():
            base(pixel_values=torch.zeros(1, *how.shape, device=model.device))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"expected images of {stated[0]}×{stated[1]}, the image_size of {name}; its image processor makes "
            f"{height}×{width}, which the model does not accept. Correct preprocessor_config.json in a copy of the "
            "model."
        ) from error
    return [
        f"images are scaled to {height}×{width} by the image processor of {name}; the model's positions for "
        f"{stated[0]}×{stated[1]} are interpolated"
    ]


def longest_answer(samples: Samples, positions: np.ndarray) -> int | None:
    """Return the most tokens of a response among some samples; None for samples without responses."""
    answers = answer_lengths(samples)
    return None if answers is None else int(answers[positions].max())


def answer_lengths(samples: Samples) -> np.ndarray | None:
    """Return the tokens of each sample's response, shape (n,); None for samples without responses."""
    if not isinstance(samples, Examples) or samples.answers is None:
        return None
    return np.asarray(samples.lengths() - samples.answers)


def questions(data: DataSet, test: np.ndarray, most: int) -> tuple[tuple[str, str], ...]:
    """Return test prompts with their responses, for a language model to answer before and after training.

    They are drawn at random from the test set, which may be sorted, and are the same for all seeds.

    Args:
        data: The data set.
        test: Positions of the test set.
        most: The most prompts.

    Raises:
        MissingExtraError: If rouge-score, which compares answers, is not installed.
    """
    if data.kind != "instructions" or not most:
        return ()
    rouge_scorer()
    asked = generator(0, "answers").choice(test, min(most, len(test)), replace=False)
    return tuple(sample for sample in taken(data.inputs, np.sort(asked)) if isinstance(sample, tuple))


def cut_prompts(longest: int, model: LoraModel, prompts: Sequence[str]) -> list[str]:
    """Return a note on prompts that are cut to ``longest`` tokens before the model answers them, if any."""
    cut = sum(len(row) > longest for row in tokenise_prompts(prompts, model.tokenizer))
    return [f"{cut} of {len(prompts)} prompts to answer were cut to {longest} tokens"] if cut else []


def by_domain(data: DataSet, samples: Samples, test: np.ndarray) -> dict[str, Samples]:
    """Return the samples of the test set by group, in the order of the groups' names.

    Samples without a group are left out.
    """
    names, member_of = np.unique(np.array(data.groups)[test], return_inverse=True)
    each = zip(names.tolist(), members(member_of, len(names)), strict=True)
    return {name: samples.subset(test[there]) for name, there in each if name}
