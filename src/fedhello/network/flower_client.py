"""The client side of a user's own Flower app: inject an adapter, and train the allocated part of it.

model = with_lora(Net())                            at both ends, in the place of Net()

@app.train()
def train(msg, context):
    allotted = prepare(model, msg)                  in the place of load_state_dict
    loss = train_fn(model, loader, …)               the user's own, and so is its optimiser
    arrays = allotted.arrays()                      in the place of ArrayRecord(model.state_dict())
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fedhello.client.fisher import over_batches
from fedhello.client.outcome import unchanged
from fedhello.client.scoring import BlockSums
from fedhello.data.batches import Batch
from fedhello.engine.wire import encode_tensors
from fedhello.errors import DataError, ModelError, UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.model.blocks import find_head
from fedhello.model.digest import digest_of
from fedhello.model.in_memory import as_it_is
from fedhello.model.injection import ATTENTION_QV, attach_lora
from fedhello.model.plain import is_plain, plain_as_it_is
from fedhello.model.saving import save_adapter
from fedhello.model.sources import CAUSAL_LM
from fedhello.network.flower_records import (
    JOIN,
    RECORD,
    SCORE,
    adapter_of,
    as_arrays,
    as_tensors,
    read_allocation,
)
from fedhello.network.limits import fits
from fedhello.types import Adapter

BUDGET = ("blocks", "rank", "memory", "upload")
"""Keys of ``--node-config`` for a node's budget."""

Loader = Iterable[Mapping[str, Tensor]]
"""Batches as transformers takes them: the model's inputs by name, and ``labels``."""

OwnData = Callable[[Context], tuple[nn.Module, Loader]]
"""A function that returns a node's model, made by ``with_lora``, and its training data."""


@dataclass
class Adapted:
    """The adapter of a user's model.

    Attributes:
        lora: The adapter.
        weights: Digest of the loaded frozen weights, without the head, which trains.
        shapes: Name → shape of the adapter as it was made, of the highest rank.
        absent: Restores the blocks that a sub-model leaves out.
    """

    lora: LoraModel
    weights: str
    shapes: Mapping[str, tuple[int, ...]]
    absent: ExitStack = field(default_factory=ExitStack)


def with_lora(
    model: nn.Module,
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Sequence[str] = ATTENTION_QV,
    rslora: bool = False,
    seed: int = 0,
    head: str | None = None,
) -> nn.Module:
    """Inject LoRA into a model in place; everything except the adapter and the head is frozen. For server and clients.

    The model is called, trained and evaluated as before. Its own weights, including the head's, do not change.

    Args:
        model: A classifier or a language model of transformers, or a plain module that is called with one tensor and
            returns logits.
        rank: R, the rank of the global adapter.
        alpha: α; the scale is α/R. None takes R.
        dropout: Dropout of the LoRA input, in [0, 1).
        targets: ``attention-qv``, ``attention``, ``all-linear``, or the last names of the linear layers to target.
        rslora: Make the scale α/√R.
        seed: Seed of the initial values of A.
        head: The dotted path of a plain module's linear layer that computes the logits.

    Returns:
        The same model.

    Raises:
        ModelError: If blocks, targets or head cannot be found.
    """
    num_labels: int | None
    if is_plain(model):
        base, num_labels = plain_as_it_is(model, head)
        heads = [str(head)]
    elif head is not None:
        raise ModelError(
            f"expected head= with a plain module alone; found it with a {type(model).__name__}, whose head is found. "
            "Leave it out."
        )
    else:
        base = as_it_is(model)
        config: Any = model.config
        num_labels = None if base.kind == CAUSAL_LM else int(config.num_labels)
        heads = [] if num_labels is None else find_head(model, num_labels)[0]
    frozen = [(n, weight) for n, weight in model.named_parameters() if not any(n.startswith(f"{h}.") for h in heads)]
    weights = digest_of(frozen)
    lora = attach_lora(
        base,
        num_labels=num_labels,
        rank=rank,
        alpha=float(rank if alpha is None else alpha),
        dropout=dropout,
        targets=targets,
        seed=seed,
        rslora=rslora,
    )
    shapes = {name: tuple(value.shape) for name, value in lora.snapshot(share_head=True).tensors.items()}
    model._fedhello = Adapted(lora, weights, shapes)  # type: ignore[assignment]
    return model


def adapted(model: nn.Module) -> Adapted:
    """Return the adapter of a model made by ``with_lora``.

    Raises:
        ModelError: If the model was not made by ``with_lora``.
    """
    found = getattr(model, "_fedhello", None)
    if not isinstance(found, Adapted):
        raise ModelError(
            f"expected a model that fedhello.flower.with_lora has put an adapter into; found a {type(model).__name__} "
            "without. Call it where the model is made, at both ends."
        )
    return found


def arrays(model: nn.Module) -> ArrayRecord:
    """Return the adapter and the head of a model, for ``initial_arrays``, instead of its whole state dict."""
    return as_arrays(adapted(model).lora.snapshot(share_head=True).tensors)


def load(model: nn.Module, arrays: ArrayRecord) -> None:
    """Load arrays of the server into a model, instead of ``load_state_dict``.

    Raises:
        ModelError: If they do not fit the model.
    """
    found = adapted(model)
    found.absent.close()
    found.lora.write(adapter_of(found.lora, arrays).tensors)


def save(model: nn.Module, arrays: ArrayRecord, folder: str | Path) -> None:
    """Write the result of a run as a PEFT adapter.

    Args:
        model: The model; it holds the adapter afterwards.
        arrays: ``result.arrays``.
        folder: The new folder; it appears completely or not at all.
    """
    load(model, arrays)
    save_adapter(adapted(model).lora, Path(folder))


@dataclass(frozen=True)
class Allotted:
    """The tensors that one client trains in one round; the model is prepared for it.

    Attributes:
        blocks: The blocks that train, ascending.
        names: The tensors that train, and that are returned; sorted.
        parameters: The same tensors as live parameters, for the optimiser.
    """

    blocks: tuple[int, ...]
    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    _of: Adapted
    _before: Mapping[str, Tensor]

    def arrays(self) -> ArrayRecord:
        """Return exactly the allocated tensors, after training.

        Raises:
            UpdateError: If a value is not finite, an allocated block stayed unchanged, or training changed other
                tensors.
        """
        self._of.absent.close()
        own = {id(p) for p in self.parameters}
        more = [
            name
            for name, p in self._of.lora.module.named_parameters()
            if id(p) not in own and (p.requires_grad or p.grad is not None)
        ]
        if more:
            self._of.weights = "trained"  # so that prepare refuses this model from now on
            raise UpdateError(
                f"expected train() to train only allocated tensors; it trains {len(more)} more parameters, the first "
                f"is {more[0]}. Leave requires_grad as fedhello.flower.prepare sets it, and construct the model again."
            )
        after = self._of.lora.read(self.names)
        if not all(bool(value.isfinite().all()) for value in after.values()):
            raise UpdateError("expected finite values after train(); found NaN or infinity. Lower its learning rate.")
        still = unchanged(self._of.lora.block_of, self._before, after)
        if still:
            raise UpdateError(
                f"expected train() to change every allocated block; it did not change {still}. Make the optimiser "
                "after fedhello.flower.prepare, of model.parameters(), and with a learning rate above 0."
            )
        return as_arrays(after)


def prepare(model: nn.Module, msg: Message) -> Allotted:
    """Prepare a model for a message: load its arrays, and let exactly the allocated tensors train.

    Args:
        model: A model made by ``with_lora``.
        msg: The message to train, from ``FedHello``.

    Raises:
        EngineError: If the message is not from ``FedHello``.
        ModelError: If the frozen weights differ from the server's, or an array is none of this adapter, or too large.
    """
    found = adapted(model)
    found.absent.close()
    record, allocation = read_allocation(msg.content)
    if record["weights"] != found.weights:
        raise ModelError(
            "expected the frozen weights of the server's model; this one has others. Load the same checkpoint, in the "
            "same type, at both ends; weights that are drawn at random need a seed."
        )
    lora = found.lora
    (received,) = msg.content.array_records.values()
    tensors = as_tensors(received)
    odd = next((name for name, value in tensors.items() if not fits(found.shapes, name, value.shape)), None)
    if odd is not None:
        raise ModelError(
            f"expected arrays of this model's adapter, of no higher rank; found {odd} of shape "
            f"{tuple(tensors[odd].shape)}. Call fedhello.flower.with_lora with the same rank at both ends."
        )
    lora.write(tensors)
    block_of = {name: lora.block_of[name] for name in received if name in lora.block_of}
    names = Adapter({}, block_of).names(allocation)
    for parameter in lora.module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    if allocation.absent:
        found.absent.enter_context(lora.without_blocks(allocation.absent))
    parameters = tuple(lora.set_trainable(names))
    return Allotted(allocation.blocks, names, parameters, found, lora.read(names))


def register(app: ClientApp, data: OwnData | None = None) -> None:
    """Let a ClientApp report its name and budget, and contribute to Fisher scores.

    Its name is ``name`` of ``--node-config``, or else ``partition-id``; its budget is ``blocks``, ``rank``, ``memory``
    (such as ``"4GB"``) or ``upload`` there.

    Args:
        app: The user's ClientApp.
        data: Returns model and training data, for methods that score on clients (``scores="clients"``).
    """

    @app.query(JOIN)
    def join(msg: Message, context: Context) -> Message:
        own = context.node_config
        name = own.get("name", own.get("partition-id"))
        fields: dict[str, Any] = {key: own[key] for key in BUDGET if key in own}
        if name is not None:
            fields["name"] = str(name)
        return Message(RecordDict({RECORD: ConfigRecord(fields)}), reply_to=msg)

    if data is None:
        return

    @app.query(SCORE)
    def score(msg: Message, context: Context) -> Message:
        model, loader = data(context)
        (received,) = msg.content.array_records.values()
        load(model, received)
        sums = block_sums(
            adapted(model).lora,
            loader,
            int(msg.content.config_records[RECORD]["samples"]),  # type: ignore[arg-type]
        )
        return Message(RecordDict({RECORD: ConfigRecord({"sums": encode_tensors(asdict(sums))})}), reply_to=msg)


def block_sums(model: LoraModel, loader: Loader, most: int | None = None) -> BlockSums:
    """Return the sums for Fisher scores over the first samples of a loader, under the model's current values.

    Args:
        model: The model.
        loader: Batches of inputs and labels.
        most: The most samples; None for all.

    Raises:
        DataError: If a batch has no ``labels``, or there is no batch.
    """
    count = 0

    def counted() -> Iterator[Batch]:
        nonlocal count
        for batch in as_batches(loader, most):
            count += len(batch.labels)
            yield batch.to(model.device)

    squares = over_batches(model, counted())
    if not count:
        raise DataError("expected samples for Fisher scores; found none")
    return BlockSums(torch.from_numpy(squares), torch.tensor(count, dtype=torch.float64))


def as_batches(loader: Loader, most: int | None = None) -> Iterator[Batch]:
    """Yield the batches of a user's loader, up to ``most`` samples.

    Raises:
        DataError: If a batch is not a mapping, or has no ``labels``.
    """
    left = most
    for batch in loader:
        if not isinstance(batch, Mapping) or "labels" not in batch:
            raise DataError(
                "expected batches for Fisher scores as transformers takes them: a mapping with the model's inputs and "
                f"labels; found {sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__}"
            )
        cut = slice(left)
        labels = batch["labels"][cut]
        yield Batch({name: value[cut] for name, value in batch.items() if name != "labels"}, labels)
        if left is not None:
            left -= len(labels)
            if left <= 0:
                return
