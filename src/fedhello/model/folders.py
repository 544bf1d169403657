"""What is wrong with a model's folder, and with the weights and the tokenizer that it holds."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from fedhello.errors import ModelError
from fedhello.formatting import flatten
from fedhello.notes import logger
from fedhello.safe_tensors import read_shapes

ADAPTER = "adapter_config.json"
"""PEFT's file: transformers would load the model that it names, and that adapter on it."""

SPARE = 10**7
"""Number of values by which a model may be larger than twice its weights, which say what else is missing."""

LARGEST_JSON = 2**26
"""The most bytes of a JSON file that is read to find what is wrong with it."""


def check_folder(folder: Path) -> None:
    """Check that a folder can be that of a model.

    Raises:
        ModelError: If it has no ``config.json``, or is the folder of an adapter or of a run.
    """
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"expected the folder of a foundation model; {folder} holds an adapter ({ADAPTER}). Set model.name to the "
            "adapter's base, or to a folder in which it is merged."
        )
    if (folder / "config.json").is_file():
        return
    if (folder / "config.yaml").is_file() and (folder / "rounds.jsonl").is_file():
        raise ModelError(
            f"expected the folder of a foundation model; {folder} is the folder of a run. Write its model with: "
            f"fedhello export {folder} --merge"
        )
    raise ModelError(f"expected a folder with config.json and weights; {folder} has no config.json")


def broken_file(folder: Path) -> str | None:
    """Return which file of a model's folder is damaged, and how; None if none is found to be."""
    for file in sorted(folder.glob("*.json")):
        if (found := _broken_json(file)) is not None:
            return f"{file.name} {found}"
    for file in sorted(folder.glob("*.safetensors")):
        if (found := _broken_weights(file)) is not None:
            return f"{file.name} {found}"
    return None


def _broken_json(file: Path) -> str | None:
    try:
        if file.stat().st_size > LARGEST_JSON:
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        return f"is not JSON in UTF-8: {' '.join(str(error).split())[:100]}"
    if file.name.startswith("vocab"):
        return None
    return None if isinstance(found, dict) else f"holds no JSON object but {type(found).__name__}"


def _broken_weights(file: Path) -> str | None:
    try:
        read_shapes(file, ValueError)
    except ValueError as error:
        return f"is not whole: {str(error)[:100]}"
    return None


def check_files(folder: Path, auto: Any) -> None:
    """Check, before memory is taken for a model, that its configuration fits the size of the weights in its folder.

    Args:
        folder: The model's folder.
        auto: The task's auto class of transformers, for a type that ``AutoModel`` does not have.

    Raises:
        ModelError: If ``config.json`` states more layers than there are tensors, or a much larger model than the
            weights, or if a matrix is of integers, which loading would take as they are.
    """
    files = [file for file in sorted(folder.glob("*.safetensors")) if _broken_weights(file) is None]
    if not files or _broken_json(folder / "config.json") is not None:
        return  # loading says what is wrong
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = [entry for file in files for entry in _tensors(file)]
    for key, value in flatten(stated).items():
        if key.endswith(("layers", "n_layer")) and isinstance(value, int) and value > len(tensors):
            raise _too_large(folder, f"{len(tensors)} tensors; {key} is {value}")
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    known = next((one for one in (AutoModel, auto) if type(config) in one._model_mapping), None)
    if known is None or "quantization_config" in stated:
        return
    with torch.device("meta"):
        parameters = dict(known.from_config(config).named_parameters())
    # By the last part of a name and the number of dimensions: files have prefixes, heads and experts of their own, and
    # buffers of integers, such as Swin's relative_position_index or the masks of an older GPT-2.
    weights = {(name.rpartition(".")[2], value.dim()) for name, value in parameters.items() if value.dim() > 1}
    for file, name, shape, dtype in tensors:
        if dtype.startswith(("I", "U", "BOOL")) and (name.rpartition(".")[2], len(shape)) in weights:
            raise ModelError(
                f"expected weights of floating point in {file}; {name} is of {dtype}. Take the model as it was "
                "before it was converted, and set model.quantisation."
            )
    there = sum(math.prod(shape) for _, _, shape, _ in tensors)
    needed = sum(value.numel() for value in parameters.values())
    if needed > SPARE + 2 * there:
        raise _too_large(folder, f"{there:,} values; a model of it has {needed:,}")


def _tensors(file: Path) -> Iterator[tuple[Path, str, list[int], str]]:
    """Yield a file, with the name, the shape and the type of each of its tensors."""
    for name, (dtype, shape) in read_shapes(file, ModelError).items():
        yield file, name, shape, dtype


def _too_large(folder: Path, found: str) -> ModelError:
    return ModelError(f"expected config.json in {folder} to fit its weights, {found}. Take both from one model.")


def check_weights(name: str, module: nn.Module, report: Any) -> None:
    """Check that loaded weights are finite, and say which blocks of the files are not part of the model.

    Raises:
        ModelError: If a value is NaN or infinite.
    """
    for key, value in module.named_parameters():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"expected finite weights of {name!r}; {key} holds NaN or infinity. Restore the files.")
    if getattr(getattr(module, "config", None), "auto_map", None):
        logger.warning(
            "%s comes with code of its own, which is not run: its weights are loaded into that of transformers", name
        )
    unused = _left_out(module, report["unexpected_keys"])
    if unused:
        logger.warning(
            "%s has blocks that its config.json does not state; %s tensors are not used, the first is %s",
            *(name, len(unused), unused[0]),
        )


def _left_out(module: nn.Module, unexpected: Iterable[str]) -> list[str]:
    """Return the unused tensors of blocks further than the last one of the model."""
    lists = {key[: number.start()] for key, _ in module.named_parameters() for number in re.finditer(r"\d+\.", key)}
    found = sorted(unexpected)
    return [key for key in found if any(key[: number.start()] in lists for number in re.finditer(r"\d+\.", key))]


def check_tokenizer(name: str, tokenizer: Any, module: Any) -> None:
    """Check that a tokenizer has a vocabulary, and not a larger one than the model.

    Args:
        name: The model's name, for messages.
        tokenizer: The loaded tokenizer.
        module: The model, of transformers.

    Raises:
        ModelError: If it has none: transformers makes an empty one where files are missing.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"expected a tokenizer for {name!r}; it knows no tokens but its special ones. Put tokenizer.json, or the "
            "vocabulary, beside the weights."
        )
    try:
        embeddings = len(module.get_input_embeddings().weight)
    except NotImplementedError:  # no table of one vector a token, such as CANINE's, which hashes every number
        return
    if tokenizer.vocab_size > embeddings:
        raise ModelError(
            f"expected the tokenizer of {name!r} to have at most the {embeddings} tokens of the model; found "
            f"{tokenizer.vocab_size}. Take both from one model."
        )
