"""From a data set to what the model takes: tokens, or pixels."""

from collections.abc import Mapping

import numpy as np

from fedhello.data import cache
from fedhello.data.batches import Examples, Images, Pixels, Samples
from fedhello.data.dataset import DataSet, Kind, Picture
from fedhello.data.encoding import LEAST_PROMPT, tokenise, tokenise_instructions
from fedhello.data.pictures import DecodedLater, decode
from fedhello.errors import ConfigError, ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.generation import rouge_scorer
from fedhello.model.loading import Kind as ModelKind
from fedhello.run.config import Config

MODEL_KINDS: Mapping[Kind, ModelKind] = {
    "texts": "text-classification",
    "pairs": "text-classification",
    "images": "image-classification",
    "instructions": "causal-lm",
}
"""What a model is for, by what the samples are."""

IN_MEMORY = 2**30
"""Bytes of pixels up to which all images are decoded at the start; beyond, each batch decodes its own."""


def encode(config: Config, data: DataSet, model: LoraModel) -> tuple[Samples, list[str]]:
    """Return the samples as the model takes them, and notes on what was changed.

    Raises:
        ConfigError: If the model takes fewer tokens than texts may have.
        DataError: If an image cannot be decoded, or a response is empty.
        ModelError: If the tokenizer cannot pad.
    """
    if data.kind == "images":
        return _images(data, model), []
    longest = model.longest_input
    if longest is not None and config.data.max_length > longest:
        raise ConfigError(
            f"expected data.max_length to be at most {longest}, the positions of {config.model.name}; "
            f"found {config.data.max_length}"
        )
    if model.tokenizer.pad_token_id is None:
        raise ModelError(
            f"expected the tokenizer of {config.model.name} to have a padding token; it has none. "
            "Name one of its tokens in model.pad_token."
        )
    if data.kind == "instructions" and longest is not None and config.data.answer_tokens + LEAST_PROMPT > longest:
        raise ConfigError(
            f"expected data.answer_tokens to leave room for a prompt within {longest} tokens, the positions of "
            f"{config.model.name}; found {config.data.answer_tokens}"
        )
    examples, cut = _tokens(data, model, config.data.max_length)
    kept = f"{cut} of {len(examples)} texts were cut to data.max_length, {config.data.max_length} tokens"
    return examples, [kept] if cut else []


def _tokens(data: DataSet, model: LoraModel, max_length: int) -> tuple[Examples, int]:
    """Tokenise, or take what was tokenised before."""
    texts = [sample for sample in data.inputs if not isinstance(sample, Picture)]
    key = cache.key_of(model.tokenizer, texts, data.kind, max_length) if len(texts) >= cache.LEAST else None
    found = cache.load(key, data.labels)
    if found is None:
        found = _tokenised(data, model, max_length)
        cache.store(key, *found)
    return found


def _tokenised(data: DataSet, model: LoraModel, max_length: int) -> tuple[Examples, int]:
    pairs = [sample for sample in data.inputs if isinstance(sample, tuple)]
    if data.kind == "instructions":
        return tokenise_instructions(pairs, data.labels, model.tokenizer, max_length)
    if data.kind == "pairs":
        first, second = zip(*pairs, strict=True)
        return tokenise(first, data.labels, model.tokenizer, max_length, second)
    texts = [sample for sample in data.inputs if isinstance(sample, str)]
    return tokenise(texts, data.labels, model.tokenizer, max_length)


def _images(data: DataSet, model: LoraModel) -> Images:
    """Scale images to the model's size; normalise them as its processor says, and to −1 … 1 where it has none."""
    channels, height, width = model.image_shape
    pictures = [sample for sample in data.inputs if isinstance(sample, Picture)]
    later = DecodedLater(tuple(pictures), (height, width), channels)
    small = len(pictures) * channels * height * width <= IN_MEMORY
    pixels: Pixels = decode(pictures, (height, width), channels=channels) if small else later
    mean, std = (_per_channel(model, name, channels) for name in ("image_mean", "image_std"))
    return Images(pixels, np.arange(len(pictures)), data.labels, mean, std)


def _per_channel(model: LoraModel, name: str, channels: int) -> tuple[float, ...]:
    values = getattr(model.processor, name, None) or (0.5,) * channels
    if len(values) != channels:
        raise ModelError(
            f"expected {name} of the image processor of {model.source.base_name} to have {channels} values, one per "
            f"channel of the model; found {len(values)}"
        )
    return tuple(float(value) for value in values)


def longest_answer(samples: Samples, positions: np.ndarray) -> int | None:
    """Return the most tokens that a response has among some samples; None where samples have none."""
    if not isinstance(samples, Examples) or samples.answers is None:
        return None
    return int((samples.lengths() - samples.answers)[positions].max())


def questions(config: Config, data: DataSet, test: np.ndarray) -> tuple[tuple[str, str], ...]:
    """Return the prompts, with their responses, that a language model answers before and after training.

    Raises:
        MissingExtraError: If nothing is installed to compare answers with.
    """
    if data.kind != "instructions" or not config.data.answers:
        return ()
    rouge_scorer()
    found = (data.inputs[i] for i in test[: config.data.answers].tolist())
    return tuple(sample for sample in found if isinstance(sample, tuple))


def by_domain(data: DataSet, samples: Samples, test: np.ndarray) -> dict[str, Samples]:
    """Return the samples of the test set by the group that the data names for each, in the order of the names.

    Samples of which it names none are left out.
    """
    groups = np.array(data.groups)[test]
    return {str(name): samples.subset(test[groups == name]) for name in np.unique(groups) if name}
