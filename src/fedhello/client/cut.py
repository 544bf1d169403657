"""Where a model is cut below its lowest trained block, and whether it can go on from known activations there."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedhello.client.mode import set_training
from fedhello.data.batches import Batch, Samples
from fedhello.model.adapter import LoraModel
from fedhello.model.below import going_on_from
from fedhello.model.forward import predictions


@dataclass(frozen=True)
class Cut:
    """Where the model is cut, and how batches run.

    Attributes:
        lowest: The lowest block that trains; L if only the head does.
        absent: The blocks that are left out.
        batch_size: The most samples of a batch.
        autocast: Whether forward passes run in bf16 autocast.
        frozen_dropout: Whether dropout is active below.
    """

    lowest: int
    absent: tuple[int, ...]
    batch_size: int
    autocast: bool
    frozen_dropout: bool = True

    def blocks(self, model: LoraModel) -> list[nn.Module]:
        """Return the blocks below that are in the model."""
        return [block for l, block in enumerate(model.block_modules()[: self.lowest]) if l not in self.absent]

    def predict(self, model: LoraModel, batch: Batch) -> Tensor:
        """Return the logits of a batch."""
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.autocast):
            return predictions(model, batch).z


@dataclass(frozen=True)
class Form:
    """What the last block below returns.

    Attributes:
        calls: How often a forward pass calls it.
        rest: What follows the hidden states, which is nothing; None if they are returned alone.
    """

    calls: int
    rest: tuple[None, ...] | None

    def output(self, states: Tensor) -> Any:
        """Return hidden states as the block returns them."""
        return states if self.rest is None else (states, *self.rest)

    def states(self, output: Any) -> Tensor:
        """Return the hidden states of what the block returned."""
        found: Tensor = output if self.rest is None else output[0]
        return found


def form_of(model: LoraModel, data: Samples, cut: Cut) -> Form | str:
    """Return what the last block below returns, or why a model cannot go on from it; tried on two samples.

    Args:
        model: The model, in training mode; afterwards as well.
        data: Samples.
        cut: Where to cut.
    """
    if len(model.blocks.lists) > 1:
        return "the model's blocks are in several lists, between which more is handed on than one input"
    lengths = data.lengths()
    positions = np.unique([int(lengths.argmax()), int(lengths.argmin())])
    batch = data.batch(positions).to(model.device)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        try:
            return _tried(model, batch, cut)
        except Exception as error:  # whatever a model's code makes of blocks that hand on something known
            return f"the model cannot go on from them ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        finally:
            set_training(model, cut.lowest)


def _tried(model: LoraModel, batch: Batch, cut: Cut) -> Form | str:
    blocks = cut.blocks(model)
    outputs: list[Any] = []
    trained = _recorded(model, batch, cut, outputs)
    if isinstance(trained, str):
        return trained
    form, states = trained
    model.module.eval()
    z = _recorded_logits(model, batch, cut, outputs)
    still = form.states(outputs[-1])
    present = _present(batch, still)
    if present is None:
        return "the model's activations are not one for each token of a text"
    if not torch.equal(states[present], still[present]):
        return (
            "dropout changes the activations in each pass. Set model.frozen_dropout=false, which leaves dropout out "
            "below the lowest block that trains"
        )
    filled = torch.zeros_like(still)
    filled[present] = still[present]
    with going_on_from(blocks, [form.output(filled)], form.calls):
        again = cut.predict(model, batch)
    return (
        form
        if torch.equal(z, again)
        else "the model hands on more from block to block than hidden states, or reads those of padding"
    )


def _recorded(model: LoraModel, batch: Batch, cut: Cut, outputs: list[Any]) -> tuple[Form, Tensor] | str:
    """Run the model; return what the last block below returns in which form, or why it cannot be kept."""
    _recorded_logits(model, batch, cut, outputs)
    output = outputs[-1] if outputs else None
    first, *rest = output if isinstance(output, tuple) else (output,)
    if not isinstance(first, Tensor) or any(more is not None for more in rest):
        return "the model's blocks return more than hidden states"
    return Form(len(outputs), tuple(rest) if isinstance(output, tuple) else None), first


def _recorded_logits(model: LoraModel, batch: Batch, cut: Cut, outputs: list[Any]) -> Tensor:
    """Return the logits of a batch, and note in ``outputs`` what the last block below returns."""
    outputs.clear()
    handle = cut.blocks(model)[-1].register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        return cut.predict(model, batch)
    finally:
        handle.remove()


def _present(batch: Batch, states: Tensor) -> Tensor | None:
    """Return where states are of a sample and not of padding; None if they are not as the batch is."""
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return torch.ones(len(states), dtype=torch.bool) if len(states) == len(batch.labels) else None
    return mask.bool() if states.shape[:2] == mask.shape else None
