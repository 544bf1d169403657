"""Checks of model, data, method and federation before a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from fedhello.aggregation.share import capped_words
from fedhello.data.batches import Samples
from fedhello.data.dataset import DataSet, Kind
from fedhello.data.split import Split
from fedhello.errors import ConfigError, ModelError
from fedhello.formatting import budget_words, first_few
from fedhello.method import Method
from fedhello.model.adapter import LoraModel
from fedhello.model.probe import made_up_inputs, tried
from fedhello.model.sources import TENSORS
from fedhello.session import ClientEntry
from fedhello.strategy import AllocationContext, BoundMethod
from fedhello.types import Allocation, Federation

MOST_NAMED = 20
"""The most clients that have a note of their own."""


def lacking_classes(data: DataSet, held_out: Split) -> Iterator[str]:
    """Yield a note for each part of the server's data that lacks classes."""
    for name, part in (("proxy", held_out.proxy), ("public", held_out.public)):
        found = len(np.unique(data.labels[part]))
        if 0 < len(part) < len(data.label_names):
            yield f"the {name} data has {found} of {len(data.label_names)} classes, since data.{name} is {len(part)}"


def unscored_heads(federation: Federation, parts: Mapping[str, Samples]) -> Iterator[str]:
    """Yield a note on clients whose own heads are not scored on a part without samples of their classes."""
    for name, part in parts.items():
        occur = set(part.labels.tolist())
        out = [client.id for client in federation.clients if occur.isdisjoint(client.classes)]
        if out:
            yield (
                f"the {name} data has no sample of the classes of clients {first_few(out)}, whose own heads are not "
                "scored on it"
            )


def capped_statistics(roster: Iterable[ClientEntry], most: int) -> Iterator[str]:
    """Yield a note for each of the first clients whose head statistics count for fewer samples, and one on the rest."""
    too_many = [entry for entry in roster if entry.samples > most]
    for entry in too_many[:MOST_NAMED]:
        yield f"the head statistics of client {entry.client} count {capped_words(entry.samples, most)}"
    if len(too_many) > MOST_NAMED:
        yield f"those of {len(too_many) - MOST_NAMED} more clients count as {most:,} samples, too"


def check_server_data(kind: Kind | None, proxy: int, public: int | str, method: Method, bound: BoundMethod) -> None:
    """Check that the configuration gives the server the data that the method needs.

    Args:
        kind: The kind of a sample; None if only the data set tells.
        proxy: Number of the server's samples for Fisher scores.
        public: Number of the server's samples for distillation, or the name of such a data set.
        method: The method.
        bound: The method with its options.

    Raises:
        ConfigError: If data are missing, or the method cannot use this kind of data.
    """
    if method.distils and kind == "instructions":
        raise ConfigError(
            f"expected a method for language models, since {method.name} distils classifiers only; found instruction "
            "data. Choose helora-pad, for example."
        )
    if method.distils and not public:
        raise ConfigError(
            f"expected data.public, a number of samples to hold out or a data set, since {method.name} distils models "
            "on a public set; found 0. Set data.public=200, for example."
        )
    if method.uses_scores and bound.scoring.source == "proxy" and not proxy:
        raise ConfigError(
            f"expected data.proxy > 0, since {method.name} computes Fisher scores on it; found 0. Set data.proxy=100, "
            "or compute scores on the clients: method.scores=clients."
        )


def check_bias(model: LoraModel) -> None:
    """Check that a solved head can be written into the logits layer.

    Raises:
        ConfigError: If the layer has no bias.
    """
    if model.logits_layer.bias is None:
        raise ConfigError(
            f"expected a logits layer with a bias for model.head=solved; the own logits layer of "
            f"{model.source.base_name} has none. Set model.pooling=last, which uses the same token, or "
            "model.head=prototypes."
        )


def check_distillation(num_labels: int) -> None:
    """Check that there are at least two classes beside a sample's own, which not-true distillation needs.

    Raises:
        ConfigError: If there are fewer than 3 classes.
    """
    if num_labels < 3:
        raise ConfigError(
            f"expected at least 3 classes for train.distillation, which keeps the probabilities of the classes other "
            f"than a sample's own; found {num_labels}. Set train.distillation=0."
        )


def check_method(method: Method, bound: BoundMethod, federation: Federation, model: LoraModel) -> tuple[str, ...]:
    """Check that the method can run in the federation, and return notes on tiers whose clients do not take part.

    Raises:
        ConfigError: If it cannot, or no client can take part.
        ModelError: If the model does not run without blocks that the method leaves out.
    """
    complaint = method.check(federation, model.snapshot(share_head=False))
    if complaint is not None:
        raise ConfigError(complaint)
    equal = (1.0,) * federation.num_blocks
    one_of = sorted(federation.one_of.items())
    first = {g: bound.allocate(AllocationContext(k, federation, 0, equal)) for g, k in one_of}
    for allocation in first.values():
        if allocation is not None and allocation.absent:
            _check_runs_without(model, allocation.absent, method.name)
    if model.has_magnitudes:
        _check_whole_factors(method, first.values(), federation.rank)
    out = [g for g, allocation in first.items() if allocation is None]
    if not out:
        return ()
    budgets = " | ".join(budget_words(federation.tiers[g]) for g in out)
    who = f"clients of tiers {', '.join(map(str, out))} ({budgets}) do not take part, since {method.name} needs more"
    if method.head_alone:
        return (f"{method.name} trains nothing here, since its head is solved and does not train",)
    if len(out) == len(one_of):
        raise ConfigError(f"expected a tier that can afford {method.name}; all {who} than any affords. Raise a budget.")
    return (f"{who} than they can afford",)


def _check_runs_without(model: LoraModel, absent: Sequence[int], method: str) -> None:
    """Check that a transformers model runs without some of its blocks.

    Raises:
        ModelError: If it does not.
    """
    if model.kind == TENSORS:
        return
    try:
        with model.without_blocks(absent):
            tried(model.base, made_up_inputs(model.base, model.image_shape if model.takes_images else None))
    except ModelError as error:
        raise ModelError(
            f"expected a model that runs without some of its blocks, as in the sub-models of {method}; "
            f"{model.source.base_name} does not. Choose a method that freezes blocks, such as rgd-hla."
        ) from error


def _check_whole_factors(method: Method, allocations: Iterable[Allocation | None], rank: int) -> None:
    """Check that clients train whole factors, which DoRA's magnitudes need, since they belong to the whole product.

    Raises:
        ConfigError: If some client trains only a part of the factors.
    """
    for allocation in allocations:
        if allocation is None:
            continue
        part = allocation.components or any(r < rank for r in allocation.ranks) or allocation.factors != "AB"
        if part:
            raise ConfigError(
                f"expected model.lora.dora=false, since under {method.name} a client trains a part of the factors, and "
                "magnitudes belong to the whole; found true. Choose a method that allocates blocks, such as rgd-hla."
            )
