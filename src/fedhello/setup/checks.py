"""What has to fit together before anything runs."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from fedhello.data.batches import Samples
from fedhello.data.dataset import DataSet, Kind
from fedhello.data.split import Split
from fedhello.errors import ConfigError
from fedhello.formatting import budget_words
from fedhello.methods import Method
from fedhello.model.adapter import LoraModel
from fedhello.strategy import AllocationContext, BoundMethod
from fedhello.types import Allocation, Federation


def lacking_classes(data: DataSet, held_out: Split) -> Iterator[str]:
    """Note parts that are too small to have samples of all classes."""
    for name, part in (("proxy", held_out.proxy), ("public", held_out.public)):
        found = len(np.unique(data.labels[part]))
        if 0 < len(part) < len(data.label_names):
            yield f"the {name} data has {found} of {len(data.label_names)} classes, since data.{name} is {len(part)}"


def unscored_heads(federation: Federation, parts: Mapping[str, Samples]) -> Iterator[str]:
    """Note the clients whose own heads are not scored on a held-out part, which has no sample of their classes."""
    for name, part in parts.items():
        out = [client.id for client in federation.clients if not np.isin(client.classes, part.labels).any()]
        if out:
            yield f"the {name} data has no sample of the classes of clients {out}, whose own heads are not scored on it"


def check_server_data(kind: Kind | None, proxy: int, public: int | str, method: Method, bound: BoundMethod) -> None:
    """Check that the server is to keep the data that the method, with its options, needs there.

    Args:
        kind: What a sample is; None where only the data set knows.
        proxy: How many samples it keeps for Fisher scores.
        public: How many it keeps for distillation, or where such data are.
        method: The method.
        bound: The same with its options.

    Raises:
        ConfigError: If not, or if the method cannot use it.
    """
    if method.distils and kind == "instructions":
        raise ConfigError(
            f"expected a method for language models, since {method.name} lets classifiers learn from each other's "
            "classes; found instruction data. Choose helora-pad, for example."
        )
    if method.distils and not public:
        raise ConfigError(
            f"expected data.public, a number of samples to hold out or a data set, since {method.name} lets models "
            "learn from each other on a public set; found 0. Set data.public=200, for example."
        )
    if method.uses_scores and bound.scoring.source == "proxy" and not proxy:
        raise ConfigError(
            f"expected data.proxy > 0, since {method.name} computes Fisher scores on it; found 0. Set data.proxy=100, "
            "or let the clients score: method.scores=clients."
        )


def check_bias(model: LoraModel) -> None:
    """Check that a head that is solved can be written into the logits layer.

    Raises:
        ConfigError: If the layer has no bias.
    """
    if model.logits_layer.bias is None:
        raise ConfigError(
            f"expected a logits layer with a bias for model.head=solved; that of {model.source.base_name}, as the "
            "architecture has it, has none. Set model.pooling=last, which reads the same token, or "
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
    """Check that the method can run here, and return notes on the tiers whose clients it lets sit out.

    Raises:
        ConfigError: If it cannot, or nobody could take part.
    """
    complaint = method.check(federation, model.snapshot(share_head=False))
    if complaint is not None:
        raise ConfigError(complaint)
    one_of = {client.tier: client for client in federation.clients}
    equal = (1.0,) * federation.num_blocks
    first = {g: bound.allocate(AllocationContext(k, federation, 0, equal)) for g, k in sorted(one_of.items())}
    if model.has_magnitudes:
        _check_whole_factors(method, first.values(), federation.rank)
    out = [g for g, allocation in first.items() if allocation is None]
    if not out:
        return ()
    budgets = " | ".join(budget_words(federation.tiers[g]) for g in out)
    who = f"clients of tiers {', '.join(map(str, out))} ({budgets}) sit out, since {method.name} asks for more"
    if method.head_alone:
        return (f"{method.name} trains nothing here: its head is solved, and stays",)
    if len(out) == len(one_of):
        raise ConfigError(f"expected a tier that can afford {method.name}; all {who} than any affords. Raise a budget.")
    return (f"{who} than they can afford",)


def _check_whole_factors(method: Method, allocations: Iterable[Allocation | None], rank: int) -> None:
    """Check that clients train all of the factors, as DoRA's magnitudes need: they belong to the whole product.

    Raises:
        ConfigError: If some client trains a part.
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
