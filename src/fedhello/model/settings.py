"""How a foundation model is loaded, and where LoRA goes in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fedhello.model.injection import ATTENTION_QV
from fedhello.model.loading import Quantisation
from fedhello.model.pooling import Pooling


@dataclass(frozen=True)
class LoraSettings:
    """Where LoRA goes, and its scale; see ``fedhello.model.injection.attach_lora``.

    Attributes:
        rank: r.
        alpha: α; the scale s is α/r.
        dropout: Of the LoRA input, in [0, 1).
        targets: A set of linear layers by its name, or the layers' last names.
        rslora: Make the scale α/√r.
        dora: Train a magnitude per output besides.
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: str | Sequence[str] = ATTENTION_QV
    rslora: bool = False
    dora: bool = False


@dataclass(frozen=True)
class ModelSettings:
    """A foundation model, and how it is loaded and adapted.

    Attributes:
        name: An embedded model, a hub id or a folder.
        revision: Of a hub id: a commit, branch or tag; None takes the newest.
        device: A device's name; ``auto`` takes CUDA before MPS before the CPU.
        seed: The run's, for the values of A and of a fresh head.
        dtype: Of the frozen weights.
        quantisation: Of the frozen weights.
        pad_token: One of the tokenizer's tokens, where it names none for padding.
        pooling: How features are made of the model's outputs.
        head_module: Of a plain module, the name of the linear layer that makes its logits.
        features: Of a plain module without such a layer, how many numbers it makes of a sample.
        lora: Where LoRA goes.
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
    lora: LoraSettings = field(default_factory=LoraSettings)
