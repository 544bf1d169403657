"""Choose the number type of forward passes and the code of attention by short trials of a model on this machine."""

import logging
import platform
import time
from contextlib import nullcontext
from typing import TypeGuard

import numpy as np
import torch

from fedhello.client.calibration import made_up, synchronise
from fedhello.client.measured_step import run_step
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import Attention, attention_of, computed_by, drops_attention
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

Way = tuple[Attention | None, bool]
"""How a step is taken: with which attention, None as the model is, and whether in bf16."""

Key = tuple[object, ...]
_KNOWN: dict[Key, float | None] = {}
"""What earlier trials of this process found, so that the methods of a comparison train in the same type within it."""


def bfloat16_pays(model: LoraModel, batch_size: int, lengths: np.ndarray, answer: int | None) -> bool:
    """Whether steps are surely faster in bf16; see ``time_in_bfloat16``."""
    return pays(time_in_bfloat16(model, batch_size, lengths, answer))


def pays(share: float | None) -> TypeGuard[float]:
    """Whether a way of taking steps is surely faster.

    Args:
        share: Its time as a share of that of another way; None if it was not tried.
    """
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
    if model.kind == TENSORS or not _computes_in_bfloat16(model.device):
        return None
    return _share(model, batch_size, lengths, answer, ((None, False), (None, True)))


def time_in_eager(
    model: LoraModel, batch_size: int, lengths: np.ndarray, answer: int | None, autocast: bool, before: bool
) -> float | None:
    """Return the time of a step with transformers' eager attention as a share of that with torch's; None if not tried.

    torch's fused kernel for CPUs holds less memory, and its backward pass may take longer than products and a softmax
    one by one. Where attention has dropout torch takes these steps itself; and on a GPU its kernels are the fastest.

    Args:
        model: The model; its values and random state do not change.
        batch_size: Samples of a batch.
        lengths: Tokens of each sample, shape (n,).
        answer: Of a language model, the tokens of the longest response.
        autocast: Whether steps with eager attention run in bf16.
        before: Whether those with torch's do.
    """
    if attention_of(model) != "sdpa" or model.device.type != "cpu" or drops_attention(model):
        return None
    return _share(model, batch_size, lengths, answer, (("sdpa", before), ("eager", autocast)))


def _share(
    model: LoraModel, batch_size: int, lengths: np.ndarray, answer: int | None, ways: tuple[Way, Way]
) -> float | None:
    """Return the time of steps taken in the second way as a share of that in the first; None for small models."""
    weights = sum(weight.numel() for weight in model.module.parameters())
    if weights < SMALLEST:
        return None
    shape = min(batch_size, MOST_SAMPLES, len(lengths)), int(np.median(lengths))
    key = (
        model.source, model.kind, model.device, weights, model.blocks.count, shape, answer, torch.get_num_threads(),
        ways,
    )  # fmt: skip
    if key not in _KNOWN:
        try:
            _KNOWN[key] = _tried(model, *shape, answer, ways)
        except RuntimeError as error:  # a part of the model insists on a number type
            logger.warning("%s cannot be taken: %s", _in_words(ways[1]), error)
            _KNOWN[key] = None
    return _KNOWN[key]


def _in_words(way: Way) -> str:
    attention, _ = way
    return "steps in bfloat16" if attention is None else f"steps with {attention} attention"


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device may have instructions for bf16; where it has none, they are emulated and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return bool(torch.cpu._is_avx512_bf16_supported())


def _tried(model: LoraModel, samples: int, tokens: int, answer: int | None, ways: tuple[Way, Way]) -> float:
    L = model.blocks.count
    absent = range(1, L - 1) if model.has_like_blocks else ()
    trained = [l for l in range(L) if l not in absent]
    batch = made_up(model, samples, tokens, answer)
    # CPU seconds hardly depend on what else runs on the machine, so runs choose alike.
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    seconds: dict[Way, list[float]] = {way: [] for way in ways}
    with model.without_blocks(absent):
        for _ in range(TURNS):
            for (attention, autocast), found in seconds.items():
                with nullcontext() if attention is None else computed_by(model, attention):
                    synchronise(model)
                    begin = clock()
                    run_step(model, trained, batch, nullcontext(), autocast)
                    synchronise(model)
                    found.append(clock() - begin)
    before, after = (min(found[1:]) for found in seconds.values())
    return after / before
