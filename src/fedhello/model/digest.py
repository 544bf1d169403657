"""A fingerprint of weights."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

VALUES = 1024
"""Number of values per tensor in the digest, spread evenly."""


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
