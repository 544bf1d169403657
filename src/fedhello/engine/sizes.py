"""Bytes of messages that need not be made, since both ends are in one process."""

from functools import lru_cache

import torch

from fedhello.engine.wire import encode_tensors, sent_tensors, written_header
from fedhello.types import Task


def task_bytes(task: Task) -> int:
    """Return how many bytes ``encode_task`` makes."""
    kinds = ((name, value.dtype, tuple(value.shape)) for name, value in sent_tensors(task).items())
    return len(written_header(task)) + _serialised(tuple(kinds))


@lru_cache(maxsize=1024)  # the clients of a round often get the same
def _serialised(kinds: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]) -> int:
    return len(encode_tensors({name: torch.empty(shape, dtype=dtype) for name, dtype, shape in kinds}))
