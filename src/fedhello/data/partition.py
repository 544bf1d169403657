"""Partition training samples over clients. Every partition is disjoint and complete.

Each function takes n labels (or groups) and returns K arrays of positions within them, each ascending. They are
our own, on plain arrays: flwr-datasets' partitioners work on ``datasets.Dataset`` and bring that library,
pandas, matplotlib and seaborn with them.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedhello.data.split import class_name
from fedhello.errors import DataError
from fedhello.registry import Registry, a_function

Parts = list[np.ndarray]

KINDS = ("iid", "dirichlet", "pathological", "natural", "files")
"""Names of built-in partitions."""

PARTITIONS = Registry("partition", "data.partition.kind", "fedhello.partitions", a_function, own=KINDS)
"""User-defined partitions."""


def register_partition(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a partition, to be used with ``data.partition: {kind: name}``.

    A function of a module needs no registration: ``data.partition: {kind: my_module:by_length, step: 2}``. An entry
    point of the group ``fedhello.partitions`` works, too.

    Args:
        name: A name that no built-in partition has; a registered partition of the same name is replaced.
        function: From the labels of the training samples (integers within 0 … C−1, shape (n,)), the number K of
            clients, and a ``numpy.random.Generator`` of the run's seed, to K sequences of positions within 0 … n−1 that
            contain each position once. Its keyword-only parameters, with type and default, are further keys of
            ``data.partition``.

    Returns:
        The function.

    Raises:
        ConfigError: If a built-in partition has the name, or ``function`` cannot be called.

    Example:
        >>> def in_turn(labels, clients, rng):
        ...     return [range(k, len(labels), clients) for k in range(clients)]
        >>> _ = register_partition("in-turn", in_turn)
    """
    return PARTITIONS.register(name, function)


def own(name: str, labels: np.ndarray, clients: int, rng: np.random.Generator, options: Mapping[str, Any]) -> Parts:
    """Partition by a user-defined function, and check its result.

    Args:
        name: The partition's name.
        labels: Shape (n,).
        clients: K.
        rng: The partition's generator.
        options: The options of the function.

    Raises:
        ConfigError: If the name is not registered, or the function raises.
        DataError: If its result is not a disjoint and complete partition into K parts.
    """
    found = PARTITIONS.call(name, labels.copy(), clients, rng, **options)
    try:
        parts = [np.asarray(part) for part in found]
    except (TypeError, ValueError) as error:
        raise DataError(f"expected the partition {name} to return {clients} lists of positions; {error}") from error
    if len(parts) != clients:
        raise DataError(f"expected the partition {name} to return {clients} parts, data.clients; found {len(parts)}")
    for k, part in enumerate(parts):
        if part.ndim != 1 or (len(part) and part.dtype.kind not in "iu"):
            raise DataError(
                f"expected the partition {name} to return lists of positions, integers; part {k} has the type "
                f"{part.dtype} and the shape {part.shape}"
            )
    given = np.concatenate([part.astype(int) for part in parts])
    outside = given[(given < 0) | (given >= len(labels))]
    if len(outside):
        raise DataError(
            f"expected the partition {name} to return positions within 0 … {len(labels) - 1}; found {outside[0]}"
        )
    counts = np.bincount(given, minlength=len(labels))
    if (wrong := np.flatnonzero(counts != 1)).size:
        often = "in no part" if counts[wrong[0]] == 0 else f"{counts[wrong[0]]} times"
        raise DataError(
            f"expected the partition {name} to give every one of {len(labels)} training samples to one client; "
            f"{len(wrong)} are not, the first, at position {wrong[0]}, is there {often}"
        )
    return _sorted(parts)


def iid(samples: int, clients: int, rng: np.random.Generator) -> Parts:
    """Deal n samples at random into K parts whose sizes differ by at most one.

    Raises:
        DataError: If there are fewer samples than clients.
    """
    _at_least(samples, clients, 1)
    return _sorted(np.array_split(rng.permutation(samples), clients))


def dirichlet(labels: np.ndarray, clients: int, alpha: float, minimum: int, rng: np.random.Generator) -> Parts:
    """Share each class's samples over all clients in proportions drawn from Dirichlet(α, …, α).

    Small α makes clients differ strongly. Clients with fewer than ``minimum`` samples are filled up
    with random samples of the client with the most samples at that moment; otherwise small α leaves clients empty.

    Args:
        labels: Shape (n,).
        clients: K.
        alpha: α > 0.
        minimum: Least number of samples per client, ≥ 1.
        rng: The partition's generator.

    Raises:
        DataError: If n < K · minimum.
    """
    _at_least(len(labels), clients, minimum)
    held: list[list[int]] = [[] for _ in range(clients)]
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        shares = rng.dirichlet(np.full(clients, alpha))
        for part, positions in zip(held, _cut(members, shares), strict=True):
            part.extend(positions.tolist())
    most = [(-len(part), k) for k, part in enumerate(held)]  # a heap: of those with most, the first
    heapq.heapify(most)
    for part in held:
        while len(part) < minimum:
            size, k = most[0]  # more than the minimum, so none that was filled up
            part.append(held[k].pop(int(rng.integers(-size))))
            heapq.heapreplace(most, (size + 1, k))
    return _sorted(held)


def pathological(
    labels: np.ndarray,
    clients: int,
    classes_per_client: int,
    minimum: int,
    rng: np.random.Generator,
    names: Sequence[str] = (),
) -> Parts:
    """Give each client exactly k classes; each class's samples are shared among its holders by Dirichlet(1).

    Classes are dealt so that the numbers of their holders differ by at most one. Each holder of a class first
    gets ⌈minimum/k⌉ of its samples; the rest is shared at random.

    Args:
        labels: Shape (n,), C different values.
        clients: K.
        classes_per_client: k, with 1 ≤ k ≤ C.
        minimum: Least number of samples per client, ≥ 1.
        rng: The partition's generator.
        names: The classes' names, for messages.

    Raises:
        DataError: If k > C, if K·k < C (a class would have no holder), or if a class is too small.
    """
    values = np.unique(labels)
    k = classes_per_client
    if not 1 <= k <= len(values):
        raise DataError(f"expected classes_per_client within 1 and {len(values)}, the number of classes; found {k}")
    if clients * k < len(values):
        raise DataError(
            f"expected every class to have a holder; {clients} clients with {k} classes each hold at most "
            f"{clients * k} of {len(values)}"
        )
    holders = _deal_classes(len(values), clients, k, rng)
    floor = -(-minimum // k)
    held: list[list[int]] = [[] for _ in range(clients)]
    for c, owners in enumerate(holders):
        members = rng.permutation(np.flatnonzero(labels == values[c]))
        if len(members) < floor * len(owners):
            raise DataError(
                f"expected class {class_name(values[c], names)} to have {floor} samples for each of its {len(owners)} "
                f"holders; it has {len(members)}. Lower data.partition.minimum or data.clients."
            )
        shares = rng.dirichlet(np.ones(len(owners)))
        first, rest = members[: floor * len(owners)], members[floor * len(owners) :]
        for owner, base, more in zip(owners, np.split(first, len(owners)), _cut(rest, shares), strict=True):
            held[owner].extend([*base.tolist(), *more.tolist()])
    return _sorted(held)


def natural(groups: Sequence[str], clients: int, rng: np.random.Generator) -> Parts:
    """Partition along a column: no client mixes groups unless there are more groups than clients.

    With fewer groups than clients, each group is dealt to a number of clients in proportion to its size; with
    more, the largest remaining group goes to the client that has least. Which client gets which part is random.

    Raises:
        DataError: If a group has fewer samples than it has clients.
    """
    names, member_of = np.unique(np.asarray(groups), return_inverse=True)
    of_group = members(member_of, len(names))
    if len(names) >= clients:
        held: list[list[int]] = [[] for _ in range(clients)]
        least = [(0, k) for k in range(clients)]  # a heap: of those with least, the first
        for positions in sorted(of_group, key=len, reverse=True):
            size, k = least[0]
            held[k].extend(positions.tolist())
            heapq.heapreplace(least, (size + len(positions), k))
        return _shuffled(held, rng)
    counts = np.ones(len(names), dtype=int)
    most = [(-float(len(positions)), g) for g, positions in enumerate(of_group)]
    heapq.heapify(most)
    for _ in range(clients - len(names)):
        _, g = most[0]
        counts[g] += 1
        heapq.heapreplace(most, (-len(of_group[g]) / counts[g], g))
    parts: Parts = []
    for name, positions, count in zip(names, of_group, counts, strict=True):
        if len(positions) < count:
            raise DataError(f"expected group {str(name)!r} to have a sample for each of its {count} clients")
        parts += np.array_split(rng.permutation(positions), count)
    return _shuffled(parts, rng)


def by_group(groups: Sequence[str], clients: int, in_memory: bool = False) -> Parts:
    """Give each group to one client, in the order of the groups' names.

    Args:
        groups: Of each sample.
        clients: K.
        in_memory: Whether a group is a data set in memory and not a file, for messages.

    Raises:
        DataError: If there are not as many groups as clients.
    """
    names, member_of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) != clients and in_memory:
        raise DataError(
            f"expected each of the {clients} data sets in memory to have samples to train on, since each is one "
            f"client's; only {', '.join(names.tolist())} have. The samples of the others repeat those of another "
            "client or of the test or validation data, and repeats are left out; leave these clients out, or set "
            "data.deduplicate=false."
        )
    if len(names) != clients:
        raise DataError(
            f"expected data.clients to be {len(names)}, the number of files with samples to train on, since each file "
            f"is one client's; found {clients}"
        )
    return members(member_of, len(names))


def members(member_of: np.ndarray, groups: int) -> Parts:
    """Return the positions of each group's samples, ascending, from the group of each sample, in one pass."""
    ends = np.cumsum(np.bincount(member_of, minlength=groups))
    return np.split(np.argsort(member_of, kind="stable"), ends[:-1])


def label_histogram(parts: Parts, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the number of each client's samples by class: integers, shape (K, C)."""
    return np.stack([np.bincount(labels[part], minlength=num_labels) for part in parts])


def _deal_classes(num_labels: int, clients: int, k: int, rng: np.random.Generator) -> list[list[int]]:
    """Return the holders of each class: every client takes the k classes with the fewest holders, ties at random."""
    holders: list[list[int]] = [[] for _ in range(num_labels)]
    for client in rng.permutation(clients).tolist():
        order = rng.permutation(num_labels).tolist()
        for c in sorted(order, key=lambda c: len(holders[c]))[:k]:
            holders[c].append(client)
    return [sorted(owners) for owners in holders]


def _cut(members: np.ndarray, shares: np.ndarray) -> list[np.ndarray]:
    """Cut members into consecutive pieces whose sizes follow the shares."""
    bounds = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
    return np.split(members, bounds)


def _at_least(samples: int, clients: int, minimum: int) -> None:
    if samples < clients * minimum:
        raise DataError(
            f"expected at least {minimum} training samples for each of {clients} clients; there are {samples}. "
            "Lower data.clients or data.partition.minimum."
        )


def _shuffled(parts: Sequence[Sequence[int] | np.ndarray], rng: np.random.Generator) -> Parts:
    """Return the parts in random order, since tiers follow client ids and must not depend on groups or their sizes."""
    return _sorted([parts[i] for i in rng.permutation(len(parts))])


def _sorted(parts: Sequence[Sequence[int] | np.ndarray]) -> Parts:
    return [np.sort(np.asarray(part, dtype=int)) for part in parts]
