"""A foundation model with its adapter: read, write, merge and save the adapter."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from torch import Tensor, nn

from fedhello.errors import ModelError
from fedhello.factors import unmerged
from fedhello.model.absence import without_members
from fedhello.model.blocks import Blocks, are_alike
from fedhello.model.card import Beside, Form, card
from fedhello.model.digest import digest_of
from fedhello.model.images import Preparation, prepare_as
from fedhello.model.loading import FoundationModel
from fedhello.model.plain import TensorClassifier, TensorEncoder
from fedhello.model.pooling import NATIVE, PooledClassifier, class_tokens
from fedhello.model.probe import without_cache
from fedhello.model.sources import TENSORS
from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter


class LoraModel:
    """A foundation model with one injected adapter: the only model in memory, used for all clients.

    The adapter's tensors have the names that PEFT writes to disk, in messages, in aggregation and in files.

    Attributes:
        module: The model, ready to be called.
        peft: The PEFT model: ``module`` itself, or its encoder if features are pooled here.
        processor: Its tokenizer or image processor, or None.
        source: Where the model is loaded from.
        kind: Its task and input.
        pooling: How the features of the head are pooled.
        blocks: The paths of its blocks.
        head_names: Names of the head's tensors, sorted; empty for a language model, which has no head of its own.
        logits_path: Dotted path, below the model, of the linear layer that computes the logits; None without a head.
        scale: s in h = W₀x + s·B A x: α/r, or α/√r under rsLoRA, for the rank at injection. It does not change when
            factors of another rank are written.
        passed_over: The paths of blocks that hand on their input where they are left out; others are taken away.
        frozen_dropout: Whether dropout is active below the lowest block that trains, too.
        left_out: A sentence on parts with many weights that the targets claim but have no adapter; None without any.
    """

    def __init__(
        self, base: FoundationModel, config: LoraConfig, blocks: Blocks, logits_path: str | None, seed: int
    ) -> None:
        with torch.random.fork_rng(devices=[]), _own_deprecations_ignored():
            torch.manual_seed(seed)
            self.peft: PeftModel = get_peft_model(base.module, config)
        self.module: nn.Module = self.peft
        self.pooling = base.pooling
        plain = base.kind == TENSORS
        if base.pooling != NATIVE and base.head is not None:
            encoder: nn.Module = TensorEncoder(self.peft) if plain else self.peft
            tokens = 0 if plain else class_tokens(base.module)
            self.module = PooledClassifier(encoder, base.pooling, base.head, tokens)
        elif plain:
            self.module = TensorClassifier(self.peft)
        self._labels = base.labels
        self.processor: Any = base.processor
        self.source = base.source
        self.kind = base.kind
        self.quantisation = base.quantisation
        self.blocks = blocks
        self.logits_path = logits_path
        self._parameters = _parameters_by_saved_name(self.peft)
        if base.pooling != NATIVE and base.head is not None:
            self._parameters |= {f"{HEAD}.{name}": p for name, p in base.head.named_parameters()}
        self.scale = config.lora_alpha / _divisor(config, config.r)
        self._used_cache = without_cache(self.base)
        self._block_modules = [self.base.get_submodule(path) for path in blocks.paths]
        self._frozen_weights: dict[str, Tensor] = {}
        self._merged: dict[str, Tensor] = {}
        self.guarantee: str | None = None
        self.left_out: str | None = None
        self.frozen_dropout = True
        self.passed_over: frozenset[str] = frozenset()
        prefix = "base_model.model."
        self.block_of = {name: blocks.index(name.removeprefix(prefix)) for name in self._parameters}
        self.head_names = tuple(name for name, block in self.block_of.items() if block is None)
        if logits_path is not None:
            # As a bound method it is copied with the model.
            self.logits_layer.forward = MethodType(_in_float32, self.logits_layer)  # type: ignore[method-assign]

    @property
    def base(self) -> Any:
        """The foundation model with the adapter inside: a transformers model, or a plain module."""
        return self.peft.get_base_model()

    @property
    def device(self) -> torch.device:
        """The device of the adapter's parameters."""
        return next(iter(self._parameters.values())).device

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a text model."""
        return self.processor

    @property
    def has_magnitudes(self) -> bool:
        """Whether DoRA's magnitudes train with the factors."""
        config: Any = self.peft.peft_config["default"]
        return bool(config.use_dora)

    @property
    def num_labels(self) -> int:
        """C, the number of classes.

        Raises:
            ModelError: If the model has no head.
        """
        return int(self.logits_layer.out_features)

    @property
    def longest_input(self) -> int | None:
        """The most tokens that model and tokenizer accept, or None if neither has a limit."""
        base = self.base
        positions = getattr(base.config, "max_position_embeddings", None)
        for part in base.modules():
            # RoBERTa-like models number positions starting after the padding position.
            if isinstance(part, nn.Embedding) and part.num_embeddings == positions and part.padding_idx is not None:
                positions -= part.padding_idx + 1
                break
        stated = [positions, getattr(self.tokenizer, "model_max_length", None)]
        # A tokenizer without a limit returns 10³⁰, and a configuration, such as XLNet's, −1.
        return min((limit for limit in stated if limit is not None and 0 < limit < 10**9), default=None)

    @property
    def takes_images(self) -> bool:
        """Whether its input is images rather than tokens."""
        return bool(self.base.main_input_name == "pixel_values")

    @property
    def allows_recomputation(self) -> bool:
        """Whether its blocks can be recomputed in backward; not if the model keeps a state between blocks."""
        return bool(getattr(self.base, "supports_gradient_checkpointing", True))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of its images."""
        return self.preparation.shape

    @property
    def preparation(self) -> Preparation:
        """The preparation of its input images."""
        return prepare_as(self.processor, self.base.config, self.source.base_name)

    @property
    def logits_layer(self) -> nn.Linear:
        """The linear layer that computes the logits: weight (C, d), bias (C,) or None.

        Raises:
            ModelError: If it has no head.
        """
        if self.logits_path is None:
            raise ModelError(
                f"expected a model with a classification head; {self.source.base_name} is loaded as a language model, "
                "which has no head"
            )
        if isinstance(self.module, PooledClassifier):
            return self.module.head
        wrapper: Any = self.base.get_submodule(self.logits_path)
        active: nn.Linear = wrapper.modules_to_save["default"] if hasattr(wrapper, "modules_to_save") else wrapper
        return active

    def head_tensor_name(self, kind: str) -> str:
        """Return the saved name of the logits layer's ``weight`` or ``bias``."""
        return f"{HEAD}.{kind}" if self.pooling != NATIVE else f"base_model.model.{self.logits_path}.{kind}"

    @property
    def has_like_blocks(self) -> bool:
        """Whether one block costs as much as another; not with stages, nor with an encoder and a decoder."""
        return are_alike(self.blocks, self._block_modules)

    def block_modules(self) -> list[nn.Module]:
        """Return all L transformer blocks, from input to output, including those that are left out now."""
        return list(self._block_modules)

    @contextmanager
    def without_blocks(self, absent: Sequence[int]) -> Iterator[None]:
        """Leave blocks out of the model inside the context; the remaining blocks follow each other directly."""
        gone = {self.blocks.paths[l] for l in absent}
        with ExitStack() as stack:
            for path in self.blocks.lists:
                stack.enter_context(without_members(self.base, path, gone, self.passed_over))
            yield

    def factors(self) -> list[tuple[int, nn.Module]]:
        """Return the linear modules that hold the LoRA factors A and B, each with its block."""
        factors = [name for name in self.block_of if name.endswith((LORA_A, LORA_B))]
        block_of_weight = {id(self._parameters[name]): self.block_of[name] for name in factors}
        found = [(block_of_weight.get(id(getattr(m, "weight", None))), m) for m in self.peft.modules()]
        return [(block, m) for block, m in found if block is not None]

    def trained_pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return the live A and B of every module in which both train now."""
        found = (
            (self._parameters[n], self._parameters[n.replace(LORA_A, LORA_B)]) for n in self._parameters if LORA_A in n
        )
        return [(A, B) for A, B in found if A.requires_grad and B.requires_grad]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Copy the named tensors out of the model, to the CPU."""
        return {name: self._parameters[name].detach().to("cpu", copy=True) for name in names}

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy values into the named tensors of the model; factors take the rank of their new values.

        For a module whose factors are written, the given product, ``merged_B·merged_A`` or ``merged``, replaces the
        product that is merged into its frozen weight. It is always added to the original weight, so repeated writing
        does not accumulate rounding errors. The same tensors again, as for each client of a round, change nothing.
        """
        with torch.no_grad():
            for name, value in tensors.items():
                if name.endswith((MERGED_A, MERGED_B, MERGED)):
                    continue
                if value.shape != self._parameters[name].shape:
                    self._replace(name, value)
                self._parameters[name].copy_(value)
            for name in tensors:
                if name.endswith(LORA_A):
                    self._merge(name.removesuffix(LORA_A), tensors)

    def _replace(self, name: str, value: Tensor) -> None:
        """Replace a factor by one of another rank."""
        if self._but_rank(name, value) != self._but_rank(name, self._parameters[name]):
            raise ModelError(
                f"expected {name} of shape {tuple(self._parameters[name].shape)}, or of another rank; "
                f"found {tuple(value.shape)}"
            )
        kind = "A" if name.endswith(LORA_A) else "B"
        layer: Any = self.peft.get_submodule(name.removesuffix(f".lora_{kind}.weight"))
        linear = getattr(layer, f"lora_{kind}")["default"]
        like = linear.weight
        linear.weight = nn.Parameter(torch.empty(value.shape, dtype=like.dtype, device=like.device), like.requires_grad)
        linear.out_features, linear.in_features = value.shape
        layer.r["default"] = value.shape[0] if kind == "A" else value.shape[1]
        self._parameters[name] = linear.weight

    def _merge(self, module: str, tensors: Mapping[str, Tensor]) -> None:
        names = [module + end for end in (MERGED_A, MERGED_B, MERGED)]
        held = {name: tensors[name] for name in names if name in tensors}
        if all(self._merged.get(name) is held.get(name) for name in names):
            return
        layer: Any = self.peft.get_submodule(module)
        weight: Tensor = layer.get_base_layer().weight
        if weight.dtype != torch.float32:
            raise ModelError(
                "expected float32 weights to add a product to, since lower precision would round it away; found "
                f"{str(weight.dtype).removeprefix('torch.')} in {self.source.base_name}. Set model.dtype=float32 and "
                "model.quantisation=none, or choose a method that does not merge."
            )
        frozen = self._frozen_weights.setdefault(module, weight.detach().clone())
        for name in names:
            self._merged.pop(name, None)
        weight.copy_(frozen)
        if held:
            whole = held.get(module + MERGED)
            if whole is None:
                whole = held[module + MERGED_B].double() @ held[module + MERGED_A].double()
            product = whole.to(weight)
            weight.add_(product.T if layer.fan_in_fan_out else product)  # Conv1D holds the transpose
            self._merged |= held

    def snapshot(self, share_head: bool) -> Adapter:
        """Copy the adapter out of the model: all LoRA factors, and the head if the clients share it."""
        names = [name for name, block in self.block_of.items() if block is not None or share_head]
        return Adapter(self.read(names), {name: self.block_of[name] for name in names})

    def set_trainable(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Let exactly the named tensors train (``requires_grad``), freeze all others, and return the named ones."""
        chosen = set(names)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in chosen)
            parameter.grad = None
        return [self._parameters[name] for name in sorted(chosen)]

    def weights_digest(self) -> str:
        """Return a fingerprint of the frozen weights; see ``digest_of``."""
        own = self.own_parameters
        return digest_of((name, weight) for name, weight in self.module.named_parameters() if id(weight) not in own)

    @property
    def own_parameters(self) -> frozenset[int]:
        """The ids of the adapter's and the head's parameters; all others are frozen."""
        return frozenset(map(id, self._parameters.values()))

    def unmerge(self) -> None:
        """Move the products merged into frozen weights to the factors, and set the larger rank in PEFT's config."""
        config: Any = self.peft.peft_config["default"]
        adapter = self.snapshot(share_head=True).with_tensors(self._merged)
        self.write(unmerged(adapter, self.scale).tensors)
        config.r = self.snapshot(share_head=True).rank
        config.lora_alpha = self.scale * _divisor(config, config.r)

    @property
    def labels(self) -> list[tuple[int, str]]:
        """The classes by number, with their names."""
        return list(enumerate(self._labels)) or sorted(self.base.config.id2label.items())

    def card(self, form: Form = "adapter", beside: Sequence[Beside] = (), longest: int | None = None) -> str:
        """Return the model card for an export in some form, with parts of the base beside it; texts may be cut."""
        labels = [] if self.logits_path is None else [name for _, name in self.labels]
        tokens = self.module.prefix if isinstance(self.module, PooledClassifier) else 0
        private, given = self.guarantee, (self.source, beside, longest)
        return card(self.source.base_name, self.kind, self.pooling, labels, form, tokens, private, *given)

    def misfits(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[object, object]]:
        """Return the tensors that are missing, unexpected or of another shape; ranks are not compared.

        Returns:
            Name → expected and found shape, without the rank; None for no tensor.
        """
        expected = {name: self._but_rank(name, p) for name, p in self._parameters.items()}
        found = {name: self._but_rank(name, tensor) for name, tensor in tensors.items()}
        odd = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        return {name: (expected.get(name), found.get(name)) for name in odd}

    @staticmethod
    def _but_rank(name: str, tensor: Tensor) -> tuple[int, ...]:
        """Return a tensor's shape; for a factor without the dimension of the rank, nothing if it is no matrix."""
        if name.endswith((LORA_A, LORA_B)) and tensor.dim() != 2:
            return ()
        if name.endswith(LORA_A):
            return (tensor.shape[1],)
        return (tensor.shape[0],) if name.endswith(LORA_B) else tuple(tensor.shape)

    def merged(self) -> Any:
        """Return the foundation model with the adapter merged into its weights; do not use this object afterwards.

        Weights of another type are converted to float32 first, so that merging does not lose precision.

        Raises:
            ModelError: If the weights are quantised, since merging would round to a few levels.
        """
        if self.quantisation != "none":
            raise ModelError(
                f"expected weights that are not quantised, to merge the adapter into; those of {self.source.base_name} "
                f"are quantised ({self.quantisation}). Export the form adapter instead."
            )
        merged: Any = self.peft.float().merge_and_unload()
        for config, used in self._used_cache:
            config.use_cache = used
        return merged


@contextmanager
def _own_deprecations_ignored() -> Iterator[None]:
    """Ignore the warning that PEFT reads an attribute which transformers deprecates; users cannot act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _parameters_by_saved_name(module: PeftModel) -> dict[str, nn.Parameter]:
    """Map the names that PEFT saves to the live parameters, matched by storage and not by spelling."""
    state = get_peft_model_state_dict(module, save_embedding_layers=False)
    saved = {tensor.data_ptr(): name for name, tensor in state.items()}
    found = {saved[p.data_ptr()]: p for p in module.parameters() if p.data_ptr() in saved}
    trainable = [name for name, p in module.named_parameters() if p.requires_grad]
    if len(found) != len(saved) or len(found) != len(trainable):
        raise ModelError(
            f"expected PEFT to save each of the {len(trainable)} trainable tensors once; "
            f"it saves {len(saved)}, of which {len(found)} are parameters"
        )
    return dict(sorted(found.items()))


HEAD = "head"
"""Path of the logits layer in ``PooledClassifier``."""


def _in_float32(layer: nn.Linear, x: Tensor) -> Tensor:
    """Run a logits layer in float32, also under autocast.

    A solved head weighs directions of low variance most, so its logits are small differences of large terms. In bf16
    these are noise; measured loss of accuracy with a vision transformer on digits: 15 points.
    """
    with torch.autocast(x.device.type, enabled=False):
        bias = None if layer.bias is None else layer.bias.float()
        return nn.functional.linear(x.float(), layer.weight.float(), bias)


def _divisor(config: LoraConfig, rank: int) -> float:
    """Return the divisor of α: r, or √r under rsLoRA."""
    return math.sqrt(rank) if config.use_rslora else rank
