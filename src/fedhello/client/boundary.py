"""Compute what stands below the lowest trained block once: keep its activations, and go on from them in every step.

No gradient reaches below the lowest block that trains. Without dropout there, the input of that block is the same for a
sample in each epoch, and in each round while no weight below changes. A client that gives memory for it (a tier's
``cache``) computes it in one pass over its samples, sorted by length, and keeps it under a digest of all weights below.

The activations are those of that one pass, whether they are kept or computed again, so a result does not depend on what
is kept. Other batches than those of the steps have other padding, and matrix products of another shape: a result
differs from that of steps that run all blocks by rounding, but by no more.

They are kept in memory, or in mapped files without a name, which are gone once nobody holds them, however a run ends.
"""

import hashlib
import logging
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fedhello.client.cut import Cut, Form, form_of
from fedhello.client.memory import StepMemory
from fedhello.data.batches import Batch, Samples
from fedhello.formatting import human_bytes
from fedhello.model.adapter import LoraModel
from fedhello.model.below import going_on_from, output_of, weights_below

logger = logging.getLogger("fedhello")

MOST = 2**30
"""Bytes of activations that a process keeps in memory, of all clients together; the least recently used go first."""

Rows = Callable[[int, Tensor], Tensor]
"""Makes room: (how many rows, a tensor of such rows) → a tensor of as many, with any values."""


def in_memory(count: int, like: Tensor) -> Tensor:
    """Return room in main memory, also for a model on a GPU: what a step takes of it is small."""
    return torch.empty(count, *like.shape[1:], dtype=like.dtype)


def in_file(count: int, like: Tensor, *, folder: Path) -> Tensor:
    """Return room in a file that is mapped.

    Raises:
        OSError: If the folder has no room; without the allocation here, that would end the process later.
    """
    size = count * like.shape[1:].numel()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # loses its name here, while the mapping stays
        os.posix_fallocate(file.fileno(), 0, size * like.element_size())
        return torch.from_file(file.name, shared=True, size=size, dtype=like.dtype).view(count, *like.shape[1:])


@dataclass(frozen=True)
class Kept:
    """The activations of a client's samples at a boundary.

    Attributes:
        key: The digest of what they were computed with.
        data: The samples.
        rows: Texts: of all tokens, one after the other; else of all samples.
        lengths: Texts: the tokens of each sample; else None.
        is_mapped: Whether they are in a file.
    """

    key: str
    data: Samples
    rows: Tensor
    lengths: np.ndarray | None
    is_mapped: bool = False

    def count(self, data: Samples) -> int:
        """Return how many rows samples of this kind take."""
        return len(data) if self.lengths is None else int(data.lengths().sum())

    def batch(self, positions: np.ndarray) -> Tensor:
        """Return those of some samples, filled with zeros up to the longest text."""
        if self.lengths is None:
            return self.rows[torch.from_numpy(positions)]
        present, index = places(self.lengths, positions)
        states = self.rows.new_zeros(*present.shape, *self.rows.shape[1:])
        states[present] = self.rows[index]
        return states


def places(lengths: np.ndarray, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return where the tokens of some texts are in their batch, shape (b, T), and in a list of all texts' tokens.

    Args:
        lengths: Tokens of all texts, shape (n,).
        positions: Which texts, shape (b,).
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    present = np.arange(lengths[positions].max()) < lengths[positions, None]
    index = starts[positions, None] + np.arange(present.shape[1])
    return torch.from_numpy(present), torch.from_numpy(index[present])


class NoRoomError(Exception):
    """There is no room for what a client keeps."""


class BoundaryCache:
    """The activations that a process keeps for its clients.

    Args:
        most: Beyond so many bytes in memory the oldest give way; in files, each client's own limit is the only one.
        folder: Where the files are; None keeps them in memory.
    """

    def __init__(self, most: int = MOST, folder: Path | None = None) -> None:
        self._most = most if folder is None else sys.maxsize
        self._folder = folder
        self._rows: Rows = in_memory if folder is None else partial(in_file, folder=folder)
        self._held: OrderedDict[int, Kept] = OrderedDict()
        self._forms: dict[Cut, Form | str] = {}
        self._digests: dict[str, tuple[Tensor, int, bytes]] = {}
        self._said: set[str] = set()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return sum(kept.rows.nbytes for kept in self._held.values())

    def reuse(
        self, model: LoraModel, data: Samples, client: int, cut: Cut, most: int, measure: bool = False
    ) -> "Reuse | None":
        """Return how a client's steps go on from kept activations; None if they run all blocks, and a log says why.

        Args:
            model: The model, in training mode, with the values of this round.
            data: The client's samples.
            client: Its id.
            cut: Where to cut.
            most: The most bytes that it keeps.
            measure: Whether to measure the peak bytes of what is computed.
        """
        blocks = cut.blocks(model)
        if not blocks:
            return None
        if cut not in self._forms:
            self._forms[cut] = form_of(model, data, cut)
        form = self._forms[cut]
        if isinstance(form, str):
            self._not_used(f"below block {cut.lowest} are not kept: {form}")
            return None
        key = self._key(model, cut)
        kept = self._held.pop(client, None)
        memory = StepMemory(model.module.parameters()) if measure else None
        filled = kept is None or kept.key != key or kept.data is not data
        try:
            if kept is None or filled:
                kept = computed(model, data, cut, form, key, most, memory, self._rows)
        except NoRoomError as error:
            self._not_used(f"are not kept: {self._folder} has no room for them ({error})")
            return None
        if kept is None:
            self._not_used(f"of client {client} are not kept: they take more than its {human_bytes(most)}")
            return None
        kept = self._held[client] = replace(kept, is_mapped=self._folder is not None)
        while self.nbytes > self._most and len(self._held) > 1:
            self._held.popitem(last=False)
        return Reuse(model, blocks, form, kept, filled, 0 if memory is None else memory.peak_bytes)

    def _not_used(self, why: str) -> None:
        if why not in self._said:
            logger.warning("activations %s", why)
            self._said.add(why)

    def _key(self, model: LoraModel, cut: Cut) -> str:
        """Return a digest of the cut and of all values below; of a frozen weight it is computed once."""
        own, digest = model.own_parameters, hashlib.sha256(repr(cut).encode())
        for name, weight in weights_below(model, cut.lowest):
            digest.update(name.encode())
            known = None if id(weight) in own else self._digests.get(name)
            if known is None or known[0] is not weight or known[1] != weight._version:
                known = self._digests[name] = (weight, weight._version, _digest(weight))
            digest.update(known[2])
        return digest.hexdigest()


def _digest(weight: Tensor) -> bytes:
    values = weight.detach().flatten().contiguous().cpu().view(torch.uint8)
    return hashlib.sha256(f"{weight.dtype}{tuple(weight.shape)}".encode() + values.numpy().tobytes()).digest()


@dataclass(frozen=True)
class Reuse:
    """How steps go on from kept activations.

    Attributes:
        model: The model.
        blocks: The blocks below.
        form: What they return.
        kept: The activations.
        filled: Whether they were computed in this round.
        peak_bytes: Peak bytes of live tensors meanwhile, if that was measured.
    """

    model: LoraModel
    blocks: list[nn.Module]
    form: Form
    kept: Kept
    filled: bool
    peak_bytes: int = 0

    @contextmanager
    def at(self, positions: np.ndarray) -> Iterator[None]:
        """Go on from the activations of the samples at some positions inside the context."""
        # Handed over, so that the states live no longer than a step needs them.
        output = [self.form.output(self.kept.batch(positions).to(self.model.device))]
        with going_on_from(self.blocks, output, self.form.calls):
            yield

    def counted(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return a training's metrics with its pass below counted, and without what is kept, beside ``memory``.

        Args:
            metrics: Those of the steps, and ``process_bytes`` of all.
        """
        found = {**metrics, "passes_below": float(self.filled)}
        if "peak_bytes" in found:
            found["peak_bytes"] = max(found["peak_bytes"], self.peak_bytes)
        if "process_bytes" in found and self.filled and not self.kept.is_mapped:
            found["process_bytes"] = max(0, found["process_bytes"] - self.kept.rows.nbytes)
        return found


def computed(
    model: LoraModel,
    data: Samples,
    cut: Cut,
    form: Form,
    key: str,
    most: int,
    memory: StepMemory | None = None,
    rows: Rows = in_memory,
) -> Kept | None:
    """Return the activations of a client's samples; None if they take more than so many bytes.

    Args:
        model: The model, in training mode.
        data: The client's samples.
        cut: Where to cut.
        form: What the last block below returns.
        key: The digest that they are kept under.
        most: The most bytes.
        memory: Measures the first, widest batch; None measures nothing.
        rows: Makes room for them.

    Raises:
        NoRoomError: If that fails.
    """
    last = cut.blocks(model)[-1]
    lengths = data.lengths()
    order = np.argsort(-lengths, kind="stable")
    kept: Kept | None = None
    for positions in np.array_split(order, -(-len(order) // cut.batch_size)):
        batch = data.batch(positions).to(model.device)
        with torch.no_grad(), memory if memory is not None and kept is None else nullcontext():
            states = form.states(output_of(last, form.calls, _bound(cut, model, batch)))
        if kept is None:
            kept = _room(data, states, lengths if "attention_mask" in batch.inputs else None, key, most, rows)
        if kept is None:
            return None
        if kept.lengths is None:
            kept.rows[torch.from_numpy(positions)] = states.to(kept.rows)
        else:
            present, index = places(lengths, positions)
            kept.rows[index] = states[present].to(kept.rows)
    return kept


def _bound(cut: Cut, model: LoraModel, batch: Batch) -> Callable[[], object]:
    return lambda: cut.predict(model, batch)


def _room(data: Samples, states: Tensor, lengths: np.ndarray | None, key: str, most: int, rows: Rows) -> Kept | None:
    """Return the room for all samples' activations, by those of one batch; None if it takes too much."""
    none = torch.empty(0, *states.shape[1 if lengths is None else 2 :], dtype=states.dtype)
    room = Kept(key, data, none, lengths)
    if bytes_kept(data, room) > most:
        return None
    try:
        return replace(room, rows=rows(room.count(data), none))
    except OSError as error:
        raise NoRoomError(error.strerror or str(error)) from error


def bytes_kept(data: Samples, like: Kept) -> int:
    """Return the bytes of the activations of some samples.

    Args:
        data: The samples.
        like: Activations of the same model.
    """
    return like.count(data) * like.rows.shape[1:].numel() * like.rows.element_size()
