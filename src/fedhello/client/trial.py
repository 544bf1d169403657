"""Choose the number type of forward passes by a short trial of this model on this machine."""

import logging
import platform
import time
from contextlib import nullcontext

import numpy as np
import torch

from fedhello.client.calibration import made_up, synchronise
from fedhello.client.measured_step import run_step
from fedhello.model.adapter import LoraModel
from fedhello.model.sources import TENSORS

logger = logging.getLogger("fedhello")

GAIN = 0.9
"""The most of float32's time that a step may take in bf16 to be chosen; what is nearer to it could be noise."""

SMALLEST = 10**6
"""Weights of the smallest model that is tried: below, a step's time is not that of its products."""

MOST_SAMPLES = 32
"""The most samples of a trial's batch."""

TURNS = 3
"""Steps of each type, in turn; the first one warms up."""

Key = tuple[object, ...]
_KNOWN: dict[Key, float | None] = {}
"""What earlier trials of this process found, so that the methods of a comparison train in the same type within it."""


def bfloat16_pays(model: LoraModel, batch_size: int, lengths: np.ndarray, answer: int | None) -> bool:
    """Whether steps are surely faster in bf16; see ``time_in_bfloat16``."""
    share = time_in_bfloat16(model, batch_size, lengths, answer)
    return share is not None and share <= GAIN


def time_in_bfloat16(model: LoraModel, batch_size: int, lengths: np.ndarray, answer: int | None) -> float | None:
    """Return the time of a step in bf16 as a share of that in float32; None where bf16 is out of question.

    The steps train all of at most two blocks of the model on a batch of clients' typical size, each type in turn, and
    the fastest of each counts. On a GPU, too, bf16 can be slower: where batches are small, a step's time is that of
    starting its operations, of which autocast adds some.

    Args:
        model: The model; its values and random state do not change.
        batch_size: Samples of a batch.
        lengths: Tokens of each sample, shape (n,).
        answer: Of a language model, the tokens of the longest response.
    """
    weights = sum(weight.numel() for weight in model.module.parameters())
    if model.kind == TENSORS or weights < SMALLEST or not _computes_in_bfloat16(model.device):
        return None
    shape = min(batch_size, MOST_SAMPLES, len(lengths)), int(np.median(lengths))
    key = model.source, model.kind, model.device, weights, model.blocks.count, shape, answer, torch.get_num_threads()
    if key not in _KNOWN:
        try:
            _KNOWN[key] = _tried(model, *shape, answer)
        except RuntimeError as error:  # a part of the model insists on a number type
            logger.warning("steps in bfloat16 cannot be taken: %s", error)
            _KNOWN[key] = None
    return _KNOWN[key]


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device may have instructions for bf16; where it has none, they are emulated and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported())


def _tried(model: LoraModel, samples: int, tokens: int, answer: int | None) -> float:
    L = model.blocks.count
    absent = range(1, L - 1) if model.has_like_blocks else ()
    trained = [l for l in range(L) if l not in absent]
    batch = made_up(model, samples, tokens, answer)
    # CPU seconds hardly depend on what else runs on the machine, so runs choose alike.
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    seconds: dict[bool, list[float]] = {False: [], True: []}
    with model.without_blocks(absent):
        for _ in range(TURNS):
            for autocast, found in seconds.items():
                synchronise(model)
                begin = clock()
                run_step(model, trained, batch, nullcontext(), autocast)
                synchronise(model)
                found.append(clock() - begin)
    float32, bfloat16 = (min(found[1:]) for found in seconds.values())
    return bfloat16 / float32
