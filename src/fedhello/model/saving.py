"""Write adapters and models to folders, completely or not at all, and read them."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file, save_model
from torch import Tensor

from fedhello import safe_tensors
from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.card import BASE, Beside
from fedhello.model.pooling import NATIVE
from fedhello.model.sources import TENSORS, local_folder
from fedhello.types import LORA_A, LORA_B

READ = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types of tensors in a run's files; others would be cast in silence, losing what they hold."""

BASE_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".gguf", ".jinja")
"""Suffixes of the files of a base that are copied: configuration, weights, and what reads inputs."""

LABELS = "labels.json"
"""File of the names of the classes and the longest text: ``id2label``, ``label2id`` and ``max_length``."""

HEAD_FILE = "head.safetensors"
"""File of a head on pooled features: ``head.weight``, ``head.bias``, and the metadata ``head``: labels and pooling."""


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to write into, and rename it to ``folder`` when everything is written.

    Raises:
        OSError: If something cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        staged = Path(temporary) / folder.name
        try:
            yield staged
        except SafetensorError as error:  # of writing, such as on a full disk
            raise OSError(" ".join(str(error).split())) from error
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)


def _sort_lists(file: Path) -> None:
    """Sort the lists in PEFT's config, which are sets written in an order that differs between processes."""
    config = json.loads(file.read_text(encoding="utf-8"))
    ordered = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    file.write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_adapter(model: LoraModel, folder: Path, max_length: int | None = None, beside: Sequence[Beside] = ()) -> None:
    """Write a model's adapter in PEFT's format (safetensors and JSON), with the base's public name.

    Products merged into frozen weights become part of the factors, whose rank grows. The folder appears completely or
    not at all.

    Args:
        model: The model with its adapter and head.
        folder: The folder.
        max_length: The longest text, in tokens, at which the card's code cuts.
        beside: The parts of the base that are written, too; with one of them also the names of the classes.

    Raises:
        ModelError: If the base has no folder on this machine, from which it could be copied.
    """
    config: Any = model.peft.peft_config["default"]
    model.unmerge()
    config.base_model_name_or_path = model.source.base_name
    config.revision = model.source.revision
    with appearing_whole(folder) as staged:
        model.peft.save_pretrained(str(staged), safe_serialization=True, save_embedding_layers=False)
        if model.pooling != NATIVE:
            save_head(model, staged)
        # PEFT's own card contains the local path of the base.
        (staged / "README.md").write_text(model.card("adapter", beside, max_length), encoding="utf-8")
        if "processor" in beside:
            _save_processor(model, staged)
            _write_labels(model, staged, max_length)
        if "base" in beside:
            _copy_base(model, staged / BASE)
        _sort_lists(staged / "adapter_config.json")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a file of a run.

    Raises:
        ModelError: If the file is not readable as safetensors, or a value is not a finite number of floating point.
    """
    tensors = safe_tensors.read_tensors(
        file, lambda why: ModelError(f"expected tensors in {file}; the file is damaged or cannot be read: {why}")
    )
    for name, value in tensors.items():
        if value.dtype not in READ:
            raise ModelError(f"expected tensors of floating point in {file}; {name} is of {value.dtype}. Convert it.")
        if not value.isfinite().all():
            raise ModelError(f"expected finite values in {file}; found NaN or infinity in {name}. Restore the file.")
    return tensors


def load_adapter(model: LoraModel, folder: Path) -> None:
    """Read a saved adapter, including its head, into a model.

    Raises:
        ModelError: If the folder holds no adapter in safetensors, or it has other shapes than the model's, is damaged,
            or is not finite.
    """
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(f"expected an adapter in {folder}; there is no adapter_model.safetensors")
    saved = read_tensors(file)
    if model.pooling != NATIVE and (folder / HEAD_FILE).is_file():
        saved |= read_tensors(folder / HEAD_FILE)
    write_fitting(model, saved, file, model.misfits(saved))


def write_fitting(
    model: LoraModel, tensors: Mapping[str, Tensor], file: Path, odd: Mapping[str, tuple[object, object]]
) -> None:
    """Write the tensors of a file into a model.

    Args:
        model: The model.
        tensors: The tensors.
        file: Their file, for messages.
        odd: Those that do not fit, as ``LoraModel.misfits`` returns them.

    Raises:
        ModelError: If some do not fit, or the two factors of a module are of different ranks.
    """
    if odd:
        name, (expected, found) = next(iter(odd.items()))
        raise ModelError(
            f"expected {file} to fit {model.source.base_name}; {len(odd)} tensors differ, the first is {name}: "
            f"expected shape {expected}, found {found}"
        )
    for name, A in tensors.items():
        B = tensors.get(name.replace(LORA_A, LORA_B)) if name.endswith(LORA_A) else None
        if B is not None and A.shape[0] != B.shape[1]:
            raise ModelError(
                f"expected both factors of a module in {file} to be of one rank; {name} has {A.shape[0]} rows, and "
                f"its B {B.shape[1]} columns"
            )
    model.write(tensors)


def save_head(model: LoraModel, folder: Path) -> None:
    """Write a model's logits layer, with the metadata needed to use it."""
    values = {name: value.contiguous() for name, value in model.read(model.head_names).items()}
    described = json.dumps({"labels": [name for _, name in model.labels], "pooling": model.pooling})
    # Only one key: safetensors writes several keys in an order that differs between processes.
    save_file(values, str(folder / HEAD_FILE), {"head": described})


def save_merged(model: LoraModel, folder: Path, max_length: int | None = None) -> None:
    """Write the merged model (``LoraModel.merged``) with its head, the names of its classes and its processor.

    Args:
        model: The model with its adapter and head.
        folder: The folder.
        max_length: The longest text, in tokens, at which the card's code cuts.

    Raises:
        ModelError: If the weights are quantised.
    """
    merged = model.merged()
    with appearing_whole(folder) as staged:
        if model.kind == TENSORS:
            staged.mkdir()
            save_model(merged, str(staged / "model.safetensors"))
        else:
            for key, value in _classes(model).items():
                setattr(merged.config, key, value)
            merged.save_pretrained(str(staged), safe_serialization=True)
        if model.pooling != NATIVE:
            save_head(model, staged)
        (staged / "README.md").write_text(model.card("merged", longest=max_length), encoding="utf-8")
        _save_processor(model, staged)
        if max_length is not None and model.kind != TENSORS:
            _write_labels(model, staged, max_length)


def _save_processor(model: LoraModel, folder: Path) -> None:
    if model.processor is not None:
        model.processor.save_pretrained(str(folder))


def _write_labels(model: LoraModel, folder: Path, max_length: int | None) -> None:
    """Write the names of the classes, and the longest text.

    A tokenizer is written as it is: one that states the longest text of a run would limit later runs on the model.
    """
    _write_json(folder / LABELS, {**_classes(model), "max_length": max_length})


def _classes(model: LoraModel) -> dict[str, dict[Any, Any]]:
    """Return the names of a classifier's classes, as in the configurations of transformers; none of other models."""
    if not model.head_names:
        return {}
    return {"id2label": dict(model.labels), "label2id": {name: i for i, name in model.labels}}


def _copy_base(model: LoraModel, folder: Path) -> None:
    """Copy the files of the base, with the names of the classes in its configuration."""
    source = model.source
    if model.kind == TENSORS or not source.location:
        raise ModelError(
            "expected a base with files of its own, to be copied; found a model that was passed as an object"
        )
    found = local_folder(source.location, source.revision)
    folder.mkdir()
    for file in found.iterdir() if source.gguf is None else [found / source.gguf]:
        if file.is_file() and (file.suffix in BASE_SUFFIXES):
            shutil.copyfile(file, folder / file.name)
    config = folder / "config.json"
    if config.is_file():
        _write_json(config, json.loads(config.read_text(encoding="utf-8")) | _classes(model))


def _write_json(file: Path, values: Any) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
