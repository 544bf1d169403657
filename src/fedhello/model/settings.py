"""Settings for loading a foundation model and injecting LoRA."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedhello.model.attention import Attention
from fedhello.model.injection import ATTENTION_QV
from fedhello.model.pooling import Pooling
from fedhello.model.quantisation import Quantisation


@dataclass(frozen=True)
class LoraSettings:
    """Settings of LoRA; see ``fedhello.model.injection.attach_lora``.

    Attributes:
        rank: r.
        alpha: α; the scale s is α/r.
        dropout: Dropout of the LoRA input, in [0, 1).
        targets: The name of a set of linear layers, or the layers' last names.
        rslora: Whether the scale is α/√r.
        dora: Whether a magnitude per output trains, too.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: str | Sequence[str] = ATTENTION_QV
    rslora: bool = False
    dora: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """Settings of a foundation model and its adapter.

    Attributes:
        name: An embedded model, a hub id or a folder.
        revision: A commit, branch or tag of a hub id; None takes the newest.
        device: A device's name; ``auto`` takes CUDA before MPS before the CPU.
        seed: The run's seed, for the values of A and of a new head.
        dtype: The type of the frozen weights.
        quantisation: The quantisation of the frozen weights.
        pad_token: The padding token, for a tokenizer without one.
        pooling: How features are pooled.
        head_module: For a plain module, the dotted path of the linear layer that computes its logits.
        features: For a plain module without such a layer, the size d of its features.
        frozen_dropout: Whether its dropout is active below the lowest block that trains, too.
        attention: Which of transformers' implementations computes attention.
        lora: The settings of LoRA.
    """

    name: str
    revision: str | None = None
    device: str = "auto"
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantisation: Quantisation = "none"
    pad_token: str | None = None
    pooling: Literal["auto"] | Pooling = "auto"
    head_module: str | None = None
    features: int | None = None
    frozen_dropout: bool = True
    attention: Attention = "default"
    lora: LoraSettings = field(default_factory=LoraSettings)
