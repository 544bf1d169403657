"""Fingerprints of weights, and of what turns inputs into numbers."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fedhello.model.images import Preparation

VALUES = 1024
"""Number of values per tensor in the digest, spread evenly."""

PROBES = (
    "The quick brown fox, 12.50 EUR & more!",
    "  two  spaces\tand\nlines ",
    "caf\u00e9 CAF\u00c9 cafe\u0301 \u65e5\u672c\u8a9e \u043f\u0440\u0438\u0432\u0435\u0442 \U0001f600",
    "unbelievably antidisestablishmentarianism_1234567890",
)
"""Texts whose tokens are part of a tokenizer's digest."""


def digest_of(weights: Iterable[tuple[str, Tensor]]) -> str:
    """Return a SHA-256 of weights: names, types, shapes and about a thousand values of each tensor.

    These values distinguish models of the same shapes at a cost that does not grow with the model.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        values = weight.detach().flatten()
        some = values[:: max(1, len(values) // VALUES)].contiguous().cpu()
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def processor_digest(processor: Any, preparation: Preparation | None = None) -> str:
    """Return a SHA-256 of what a tokenizer or an image processor makes of inputs.

    Of a tokenizer count its vocabulary, special tokens, chat template, and the tokens of ``PROBES``; not its serialised
    form, which depends on the versions of packages and on what was tokenised before. Of images count the shape and the
    normalisation, and how they are scaled.

    Args:
        processor: The tokenizer or the image processor; None if there is none.
        preparation: The preparation of images; None for other inputs.

    Returns:
        The digest, or nothing for inputs that are numbers already.
    """
    if preparation is not None:
        scaling = [getattr(processor, key, None) for key in ("resample", "do_resize", "do_center_crop")]
        made: object = (preparation.shape, preparation.mean, preparation.std, *map(str, scaling))
    elif processor is not None:
        vocabulary, template = sorted(processor.get_vocab().items()), getattr(processor, "chat_template", None)
        tokens = [list(processor(probe, verbose=False)["input_ids"]) for probe in PROBES]
        made = (vocabulary, tokens, processor.pad_token_id, processor.all_special_ids, template)
    else:
        return ""
    return hashlib.sha256(repr(made).encode("utf-8", "backslashreplace")).hexdigest()
