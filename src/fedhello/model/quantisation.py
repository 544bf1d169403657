"""Frozen weights in 8 or 4 bits, by bitsandbytes."""

import importlib.util
import logging
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from fedhello.errors import MissingExtraError, ModelError
from fedhello.model.sources import ModelSource

Quantisation = Literal["none", "8bit", "4bit"]
"""Whether the frozen weights are quantised by bitsandbytes: LLM.int8(), or NF4 as in QLoRA."""


def check_can_quantise(quantisation: Quantisation, source: ModelSource) -> None:
    """Check that a model can be quantised here.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
        ModelError: If the weights are those of a GGUF file.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"model.quantisation={quantisation} needs bitsandbytes; run: pip install 'fedhello[quantised]'"
        )
    if source.gguf:
        raise ModelError(
            f"expected model.quantisation=none for {source.base_name}, which comes as a GGUF file; found {quantisation}"
        )


def quantised(
    dtype: torch.dtype, quantisation: Quantisation, device: torch.device | None, skipped: list[str] | None = None
) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for quantising; none for ``none``.

    Args:
        dtype: That products are computed in.
        quantisation: Into how many bits.
        device: Where the weights go; None for the CPU.
        skipped: Parts that stay as they are, such as a head.
    """
    if quantisation == "none":
        return {}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs the number type at every product
    config = BitsAndBytesConfig(
        load_in_8bit=quantisation == "8bit",
        load_in_4bit=quantisation == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )
    return {"quantization_config": config, "device_map": {"": device or torch.device("cpu")}}


def keep_layout(module: nn.Module) -> None:
    """Keep bitsandbytes from changing the layout of 4-bit weights on a CPU with AVX-512 BF16.

    It changes it in the first evaluation and does not restore it, after which there are no gradients (0.50).
    """
    for one in module.modules():
        if hasattr(one, "support_avx512bf16_for_cpu"):
            setattr(one, "support_avx512bf16_for_cpu", False)  # noqa: B010  # nn.Module types attributes as tensors
