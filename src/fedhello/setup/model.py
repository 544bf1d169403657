"""The foundation model of a session: loaded as configured, on its device."""

from collections.abc import Sequence

import torch

from fedhello.config.schema import Config
from fedhello.errors import ConfigError
from fedhello.model.adapter import LoraModel
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.sources import CAUSAL_LM, resolve
from fedhello.model.sources import Kind as ModelKind
from fedhello.randomness import integer_seed


def load_model(config: Config, labels: Sequence[str], kind: ModelKind = "text-classification") -> LoraModel:
    """Load the configured foundation model with a fresh adapter and head, on its device.

    Args:
        config: The configuration.
        labels: The names of the classes; ignored for a language model, which gets no head.
        kind: What the model is for.

    Raises:
        MissingExtraError: If an embedded model, or what quantises, is not installed.
        ModelError: If it cannot be loaded, verified or understood.
    """
    device = choose_device(config.run.device)
    base = load_foundation(
        resolve(config.model.name, config.model.revision),
        kind,
        labels,
        integer_seed(config.run.seed, "head"),
        dtype=getattr(torch, config.model.dtype),
        quantisation=config.model.quantisation,
        pad_token=config.model.pad_token,
        device=device,
        pooling=config.model.pooling,
    )
    lora = config.model.lora
    model = attach_lora(
        base,
        classes=None if kind == CAUSAL_LM else len(labels),
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=integer_seed(config.run.seed, "lora"),
        rslora=lora.rslora,
        dora=lora.dora,
    )
    model.module.to(device)
    return model


def choose_device(name: str) -> torch.device:
    """Return a device by its name; ``auto`` takes CUDA before MPS before the CPU.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"expected run.device to be auto, cpu or an available device; {name!r}: {reason}") from error
    return device
