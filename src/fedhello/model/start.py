"""Start from an existing adapter: a folder that PEFT or fedhello wrote."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fedhello.errors import ModelError
from fedhello.model.adapter import LoraModel
from fedhello.model.folders import ADAPTER, LARGEST_JSON
from fedhello.model.pooling import NATIVE
from fedhello.model.saving import HEAD_FILE, read_tensors, write_fitting
from fedhello.model.settings import LoraSettings
from fedhello.safe_tensors import METADATA, stated

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"

SAME = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rslora", "use_dora": "dora"}
"""PEFT's name of what must be as it is configured → its name in ``model.lora``."""

PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "layer_replication": None,
}
"""What an adapter has in PEFT's configuration if it is plain LoRA of one rank, where that states it."""


@dataclass(frozen=True)
class Start:
    """The adapter that a run starts from.

    Attributes:
        head: Whether its head was read, too.
        digest: Of its files.
        notes: Notes for the user.
    """

    head: bool
    digest: str
    notes: tuple[str, ...]


def start_from(model: LoraModel, name: str, lora: LoraSettings, labels: Sequence[str]) -> Start:
    """Read an existing adapter into a model, with its head if it is of the same labels.

    Args:
        model: The model, with a new adapter.
        name: The folder of the adapter, or that of a run.
        lora: The settings of LoRA.
        labels: The names of the classes.

    Raises:
        ModelError: If there is no such adapter in safetensors, or it is of another kind than is configured.
    """
    folder = Path(name)
    folder = folder / "adapter" if (folder / "adapter" / ADAPTER).is_file() else folder
    config = _config(folder)
    _check_weights(folder)
    _check_config(folder, config, lora)
    tensors = read_tensors(folder / WEIGHTS)
    heads = {key: value for key, value in tensors.items() if key in model.head_names}
    factors = {key: value for key, value in tensors.items() if key not in heads}
    _check_targets(model, folder, config, lora, factors)
    odd = {key: pair for key, pair in model.misfits(factors).items() if key not in model.head_names}
    write_fitting(model, factors, folder / WEIGHTS, odd)
    if model.pooling != NATIVE and (folder / HEAD_FILE).is_file():
        heads = read_tensors(folder / HEAD_FILE)
    why = _read_head(model, heads, _labels(folder), labels)
    return Start(why is None and bool(model.head_names), _digest(folder), tuple(_notes(model, folder, config, why)))


def _config(folder: Path) -> dict[str, Any]:
    """Return PEFT's configuration of an adapter."""
    file = folder / ADAPTER
    if not file.is_file():
        raise ModelError(
            f"expected model.adapter to be a folder with {ADAPTER} and {WEIGHTS}, as PEFT writes them, or that of a "
            f"run; {folder} has no {ADAPTER}. Check the path."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size <= LARGEST_JSON else None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"expected JSON in {file}; {' '.join(str(error).split())[:100]}") from error
    if not isinstance(found, dict):
        raise ModelError(f"expected a JSON object in {file}; found something else")
    return found


def _check_weights(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / PICKLED).is_file():
        raise ModelError(
            f"expected {WEIGHTS} in {folder}; found {PICKLED}, a pickle, which can run code and is not read. Load it "
            "with PEFT if you trust it, and save it with save_pretrained(folder, safe_serialization=True)."
        )
    raise ModelError(f"expected {WEIGHTS} in {folder}; there is none. Check the path.")


def _check_config(folder: Path, config: Mapping[str, Any], lora: LoraSettings) -> None:
    """Check that an adapter is plain LoRA with the rank and the scale that are configured."""
    for key, right in PLAIN.items():
        found = config.get(key) or right
        if found != right:
            raise ModelError(
                f"expected an adapter of plain LoRA in {folder} ({key}: {right}); found {key}: {found!s:.60}. Train "
                "another, or merge it into its base and set model.name to that."
            )
    differing = {
        ours: config.get(theirs, False)
        for theirs, ours in SAME.items()
        if config.get(theirs, False) != getattr(lora, ours)
    }
    if differing:
        there = " and ".join(f"model.lora.{key}={_plain(getattr(lora, key))}" for key in differing)
        here = " ".join(f"model.lora.{key}={_plain(value)}" for key, value in differing.items())
        raise ModelError(f"expected the adapter in {folder} to be of {there}, as is set; it is of {here}. Set that.")


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _check_targets(
    model: LoraModel, folder: Path, config: Mapping[str, Any], lora: LoraSettings, factors: Mapping[str, Tensor]
) -> None:
    """Check that an adapter is of the layers that are configured, and of nothing else."""
    own = model.block_of.keys() - set(model.head_names)
    lacking, more = sorted(own - factors.keys()), sorted(factors.keys() - own)
    if not lacking and not more:
        return
    said = [f"it lacks {len(lacking)} of {len(own)} tensors, such as {lacking[0]}"] if lacking else []
    said += [f"it has {len(more)} others, such as {more[0]}"] if more else []
    raise ModelError(
        f"expected the adapter in {folder} to be of model.lora.targets={lora.targets} in {model.source.base_name}; "
        f"{', and '.join(said)}. Its target_modules are {config.get('target_modules')!s:.200}: set "
        "model.lora.targets, or model.pooling=native if it was made for the model with its own classifier."
    )


def _labels(folder: Path) -> list[str] | None:
    """Return the labels that an adapter's head was trained for; None if nothing says them.

    A head on pooled features states them; that within the foundation model does not, and the run beside does.
    """
    try:
        if (folder / HEAD_FILE).is_file():
            found = json.loads(stated(folder / HEAD_FILE, ModelError)[METADATA]["head"])["labels"]
        else:
            found = json.loads((folder.parent / "summary.json").read_text(encoding="utf-8"))["labels"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def _read_head(
    model: LoraModel, heads: Mapping[str, Tensor], known: Sequence[str] | None, labels: Sequence[str]
) -> str | None:
    """Read a head into the model, its rows in the order of the labels; return why not, if it is not of them."""
    if not model.head_names:
        return None
    if heads.keys() != set(model.head_names):
        return "it has none for this model"
    if known is None:
        return "nothing says which labels it is for"
    if sorted(known) != sorted(labels):
        return f"its labels are others: {', '.join(known[:5])}{', …' * (len(known) > 5)}"
    rows, logits = [known.index(name) for name in labels], [model.head_tensor_name(kind) for kind in ("weight", "bias")]
    fitting = {key: value[rows] if key in logits and len(value) == len(rows) else value for key, value in heads.items()}
    if not fitting.keys().isdisjoint(model.misfits(fitting)):
        return "it is of another shape"
    model.write(fitting)
    return None


def _notes(model: LoraModel, folder: Path, config: Mapping[str, Any], why: str | None) -> list[str]:
    """Return what a user should know of the start."""
    head = "" if not model.head_names else " and its head" if why is None else f", not from its head, since {why}"
    notes = [f"training starts from the adapter in {folder}{head} (model.adapter)"]
    base = str(config.get("base_model_name_or_path") or "")
    if base and Path(base).name != Path(model.source.base_name).name:
        notes.append(f"the adapter in {folder} was trained on {base}, and is put on {model.source.base_name}")
    return notes


def _digest(folder: Path) -> str:
    files = [file for file in (folder / WEIGHTS, folder / HEAD_FILE) if file.is_file()]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
