"""Noise that cannot be repeated, and the clipping that it is measured against."""

import math

import numpy as np
import torch
from torch import Tensor

from fedhello.randomness import secret_generator


def gaussian(shape: tuple[int, ...], deviation: float) -> Tensor:
    """Return Gaussian noise, float64, from a generator seeded anew with 256 bits of the operating system.

    Nothing of a run's configuration or seed enters it, so nobody can draw it again and take it out. The values are
    floating-point numbers, not those of a discrete Gaussian: the guarantee is that of the ideal mechanism, and does not
    cover attacks on the lowest bits of what is released (Mironov, CCS 2012). PCG64DXSM is no cipher; its state is not
    known to be recoverable from its outputs, and is thrown away after one draw.

    Args:
        shape: Of the noise.
        deviation: Its standard deviation, ≥ 0.
    """
    drawn = secret_generator().standard_normal(shape)
    return torch.from_numpy(np.asarray(drawn)) * deviation


def factor(length: float, most: float) -> float:
    """Return what a contribution is multiplied by so that its length is at most ``most``: min(1, most/length).

    A contribution that is not finite counts as nothing: 0.

    Args:
        length: ‖v‖ of all that one client contributes to a release, together.
        most: C > 0.
    """
    if not math.isfinite(length):
        return 0.0
    return 1.0 if length <= most else most / length
