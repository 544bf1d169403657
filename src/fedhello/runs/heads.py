"""The head of a run, solved from the clients' head statistics before the first round, between rounds and at the end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedhello.engine.protocol import Contribution
from fedhello.model.evaluation import logits, pooled_features
from fedhello.model.head import (
    Family,
    Head,
    calibrated,
    cross_validated_head,
    family,
    prototype_head,
    solved_head,
)
from fedhello.model.number_type import in_bfloat16
from fedhello.model.private_sums import PrivatePlan
from fedhello.model.statistics import PARTS, HeadSums, add_up, faded, head_sums, plus, scaled_to, without
from fedhello.randomness import generator
from fedhello.runs.head_weights import both_sums, is_surely_better, typical_samples
from fedhello.runs.private_heads import released_sums
from fedhello.runs.selection import selection_after
from fedhello.session import Session
from fedhello.state import RunState
from fedhello.types import Adapter

NOT_FINITE = "the features are not finite after training, so the head is not updated; lower train.lr"

FOLDS = 5
"""Statistics of the server's own samples, which never leave the server."""


@dataclass
class Traffic:
    """The costs of collecting head statistics.

    Attributes:
        clients: The clients whose statistics came, ascending.
        samples: Number of samples in the sums.
        bytes_up: Bytes that these clients sent.
        bytes_down: Bytes that they received.
    """

    clients: list[int] = field(default_factory=list)
    samples: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def counted(self, found: Contribution, most: int | None) -> HeadSums:
        """Count a contribution, and return its sums, as those of at most so many samples a client."""
        sums = scaled_to(found.sums, None if most is None else most * len(found.clients))
        self.clients.extend(found.clients)
        self.samples += round(float(sums.counts.sum()))
        self.bytes_up += found.bytes_up
        self.bytes_down += found.bytes_down
        return sums


@dataclass(frozen=True)
class HeadChange:
    """A change of the head, before the first round or after one.

    Attributes:
        clients: Number of clients whose statistics came; after forgetting, the number that is left.
        samples: Number of samples in all statistics that the head is solved from.
        bytes_up: Bytes that these clients sent for it.
        bytes_down: Bytes that they received for it.
        shrinkage: See ``fedhello.model.head.Head``.
        temperature: See ``fedhello.model.head.Head``.
        loss: See ``fedhello.model.head.Head``.
        adopted: Whether it replaced the earlier head.
        left_out: Number of these clients' samples that are left out, because the client has too few of the class.
        loss_before: Loss of the earlier head, at its own best temperature; None if the two were not compared.
        noise: σ of the noise on the sums, over the most that one client contributes; None without noise. The samples
            are not known then, and stated as 0.
        most: The most samples for which a client counts, if fewer than it may count for, since with those it is surely
            better on the validation data; see ``fedhello.runs.head_weights``. None where all count in full.
    """

    clients: int
    samples: float
    bytes_up: int
    bytes_down: int
    shrinkage: float | None = None
    temperature: float | None = None
    loss: float | None = None
    adopted: bool = True
    left_out: int = 0
    loss_before: float | None = None
    noise: float | None = None
    most: int | None = None


Solved = tuple[RunState, HeadChange | None]
"""A state with its head, and the change of the head; None without a change."""


def first_head(session: Session, adapter: Adapter) -> Solved:
    """Return the state before round 0, with the initial head of the head policy.

    Args:
        session: The session; its model holds the adapter.
        adapter: θ⁰ with a random head.

    Raises:
        DataError: If a class has no sample on any client.
    """
    state = RunState(0, adapter)
    if session.head.policy not in ("solved", "prototypes"):
        return state, None
    if session.private is not None:
        return _released(session, state, session.private)
    if session.row.server_alone:
        head, samples = _of_the_server(session)
        found: Solved = _with_head(session, state, head), _change(head, 0, samples)
    else:
        found = _solved(session, state, None)
    after, change = found
    if not session.keeps_head or change is None:
        return found
    return replace(after, adapter=adapter), replace(change, adopted=False)


def refreshed_head(session: Session, state: RunState, clients: Sequence[int]) -> Solved:
    """Return a state after a round, with its head solved again if ``model.refresh`` says so.

    The clients of the round send new sums; the earlier sums, of earlier features, are multiplied by 1 −
    ``model.forgetting`` at every refresh. With drift compensation these sums are compensated, too.
    """
    head = session.head
    if head.policy != "solved" or head.refresh is None or state.round % head.refresh or not clients:
        return state, None
    if session.drift is not None and session.drift.head(state.adapter) is None:
        return state, None
    before = faded(_sums_now(session, state), 1 - head.forgetting) if state.head_sums else None
    return _solved(session, state, clients, before)


def _sums_now(session: Session, state: RunState) -> HeadSums:
    return HeadSums(**state.head_sums) if session.drift is None else session.drift.sums(state.adapter)


def final_head(session: Session, state: RunState) -> Solved:
    """Return the state after the last round, with its head solved once more from all clients if that is better.

    Better means a smaller −log p on the validation data, each head at its own best temperature; with model selection,
    surely smaller than that of the selected model. If nothing has trained, only clients that are missing in the sums
    send theirs.

    Args:
        session: The session.
        state: The state after the last round.
    """
    if session.head.policy != "solved" or not session.head.final:
        return state, None
    method = session.row
    if method.server_alone or session.private is not None:
        return state, None
    if method.head_alone:
        known = {*state.head_clients, *state.forgotten}
        late = [k for k in range(len(session.tier_of)) if k not in known]
        return _solved(session, state, late, HeadSums(**state.head_sums)) if late else (state, None)
    before = _validation_loss(session, state) if state.selected_losses is None else float(state.selected_losses.mean())
    after, change = _solved(session, state, None)
    if change is None:
        return after, None
    loss = _validation_loss(session, after)
    after = selection_after(session, replace(after, before_final=_head_and_sums(session, state)))
    better = loss < before if state.selected is None else after.selected is not state.selected
    found = loss if math.isfinite(loss) else None  # JSON has no NaN or infinity
    return after if better else state, replace(change, loss=found, adopted=better, loss_before=before)


def _validation_loss(session: Session, state: RunState) -> float:
    """Return the mean −log p of the validation data; of a head without drift compensation at its best temperature."""
    if session.drift is not None or state.selected_losses is not None:
        return float(session.losses(state.adapter).mean())
    session.model.write(state.adapter.tensors)
    validation = session.server.validation
    with in_bfloat16(session.model, session.bfloat16):
        z = logits(session.model, validation)
    return calibrated(z.double(), torch.from_numpy(validation.labels))[0]


def following_head(session: Session, state: RunState) -> tuple[RunState, str | None]:
    """Return a state after a round with a head compensated for the drift of the features, without messages to clients.

    If features are not finite, the head does not change, and a flag says so.
    """
    if session.drift is None:
        return state, None
    head = session.drift.head(state.adapter)
    return (state, NOT_FINITE) if head is None else (_with_head(session, state, head), None)


def without_final_head(state: RunState) -> RunState:
    """Return a state with the head from before its final head, from which further rounds continue."""
    kept = state.before_final
    if not kept:
        return state
    parts: dict[str, dict[str, Tensor]] = {"head": {}, "sums": {}, "base": {}, "selected": {}}
    for key, value in kept.items():
        part, _, name = key.partition("/")
        if part in parts:
            parts[part][name] = value
    blocks = {name.partition("/")[2]: name.partition("/")[0] for name in parts["selected"]}
    selected = Adapter(
        {name.partition("/")[2]: value for name, value in parts["selected"].items()},
        {name: int(block) if block else None for name, block in blocks.items()},
    )
    return replace(
        state,
        adapter=state.adapter.with_tensors(parts["head"]),
        head_sums=parts["sums"],
        head_clients=tuple(kept["clients"].tolist()),
        head_most=int(kept["most"]) if "most" in kept else None,
        head_base=parts["base"],
        selected=selected if selected.tensors else None,
        selected_losses=kept.get("losses"),
        selected_round=int(kept["round"]) if "round" in kept else 0,
        before_final={},
    )


def _head_and_sums(session: Session, state: RunState) -> dict[str, Tensor]:
    kept = {f"head/{name}": state.adapter.tensors[name] for name in session.model.head_names}
    kept |= {f"sums/{name}": value for name, value in state.head_sums.items()}
    kept |= {f"base/{name}": value for name, value in state.head_base.items()}
    if state.selected is not None and state.selected_losses is not None:
        blocks = state.selected.block_of
        kept |= {f"selected/{_or_nothing(blocks[n])}/{n}": value for n, value in state.selected.tensors.items()}
        kept |= {"losses": state.selected_losses, "round": torch.tensor(state.selected_round)}
    kept |= {} if state.head_most is None else {"most": torch.tensor(state.head_most)}
    return kept | {"clients": torch.tensor(state.head_clients, dtype=torch.int64)}


def _or_nothing(block: int | None) -> str:
    return "" if block is None else str(block)


def head_without(session: Session, state: RunState, clients: Sequence[int]) -> tuple[RunState, HeadChange]:
    """Return a state whose head is solved from the sums of all clients except some, as if these had never taken part.

    Args:
        session: The session of the run, with all its clients; its model computes the features of the start.
        state: A state with integer sums of features that never changed.
        clients: The clients to forget, in addition to those forgotten already.

    Raises:
        DataError: If a class has no sample on any client that is left.
    """
    total, due = HeadSums(**state.head_sums), {*clients} & {*state.head_clients}
    most = session.most_samples if state.head_most is None else state.head_most
    # All clients send their sums: features may differ in the last bit with the content of a batch.
    for found in session.engine.head_sums() if due else ():
        if due.issuperset(found.clients):
            total = without(total, scaled_to(found.sums, most), session.statistics.moments)
    left = [k for k in state.head_clients if k not in due]
    h = _validation_features(session, state.adapter)
    head, samples = _from_sums(session, total, h), round(float(total.counts.sum()))
    sums = {name: getattr(total, name) for name in PARTS}
    gone = tuple(sorted({*state.forgotten, *clients}))
    state = replace(_with_head(session, state, head), head_sums=sums, head_clients=tuple(left), forgotten=gone)
    return state, _change(head, len(left), samples, left_out=_declared(session, left, most) - samples)


def _solved(session: Session, state: RunState, clients: Sequence[int] | None, before: HeadSums | None = None) -> Solved:
    """Collect head statistics of some or all clients under the state's adapter, and solve the head from them.

    Args:
        session: The session.
        state: The state whose adapter computes the features.
        clients: The clients; None for all.
        before: Sums that are added to theirs.
    """
    moments, traffic = session.statistics.moments, Traffic()
    adapter = state.adapter if state.round or session.start is not None else None
    # Once clients count for fewer samples, those that come later do, too.
    capped = None if before is None else state.head_most
    most, typical = (session.most_samples, typical_samples(session)) if capped is None else (capped, None)
    session.engine.observer.on_phase("heads")
    found = session.engine.head_sums(clients, adapter)
    total, even = both_sums(((one.clients, traffic.counted(one, most)) for one in found), typical, moments)
    total = total if before is None else plus(before, total)
    h = _validation_features(session, state.adapter)
    head = _from_sums(session, total, h)
    if even is not None:
        even = even if before is None else plus(before, even)
        other = _from_sums(session, even, h)
        if is_surely_better(other, head, h, torch.from_numpy(session.server.validation.labels)):
            head, total, capped = other, even, typical
    sums = {name: getattr(total, name) for name in PARTS}
    known = sorted({*state.head_clients, *traffic.clients})
    base = {} if session.drift is None else session.drift.without_head(state.adapter)
    state = replace(_with_head(session, state, head), head_sums=sums, head_clients=tuple(known), head_base=base)
    state = replace(state, head_most=capped)
    if session.drift is not None:
        session.drift.begin(state)
    left_out = _declared(session, traffic.clients, most) - traffic.samples
    change = _change(head, len(traffic.clients), float(total.counts.sum()), left_out=left_out)
    return state, replace(change, bytes_up=traffic.bytes_up, bytes_down=traffic.bytes_down, most=capped)


def _released(session: Session, state: RunState, private: PrivatePlan) -> Solved:
    """Return the state with the head that is solved from one release of the clients' sums with noise."""
    state, sums, head, (up, down) = released_sums(session, state, private)
    known = {name: getattr(sums, name) for name in PARTS}
    everyone = tuple(entry.client for entry in session.roster)
    base = {} if session.drift is None else session.drift.without_head(state.adapter)
    state = replace(_with_head(session, state, head), head_sums=known, head_clients=everyone, head_base=base)
    if session.drift is not None:
        session.drift.begin(state)
    change = _change(head, len(everyone), 0)
    return state, replace(change, bytes_up=up, bytes_down=down, noise=private.head.noise)


def _validation_features(session: Session, adapter: Adapter) -> Tensor:
    """Return the features of the server's validation data under an adapter, shape (n, d)."""
    if session.drift is not None:
        return session.drift.features(session.drift.without_head(adapter), validation_alone=True)
    session.model.write(adapter.tensors)
    return pooled_features(session.model, session.server.validation, session.bfloat16)


def _from_sums(session: Session, total: HeadSums, h: Tensor) -> Head:
    """Return the head solved from sums, with shrinkage and temperature chosen on the server's validation data.

    Args:
        session: The session.
        total: The sums.
        h: Features of the validation data, shape (n, d).
    """
    if session.head.policy == "prototypes":
        return prototype_head(total, session.head.scale)
    y = torch.from_numpy(session.server.validation.labels)
    return solved_head(_family(session, total), h, y, session.head.shrinkages)


def _family(session: Session, total: HeadSums) -> Family:
    return family(total, session.statistics.moments, session.head.solver, session.head.priors)


def _of_the_server(session: Session) -> tuple[Head, int]:
    """Return the head solved from the server's own proxy and validation samples, and their number."""
    parts = [part for part in (session.server.proxy, session.server.validation) if len(part)]
    h = torch.cat([pooled_features(session.model, part, session.bfloat16) for part in parts])
    y = torch.from_numpy(np.concatenate([part.labels for part in parts]))
    settings = replace(session.statistics, least=1)  # nothing leaves the server

    def sums(kept: Tensor) -> HeadSums:
        return add_up([head_sums(h[kept], y[kept], session.model.num_labels, settings)], settings.moments)

    if session.head.policy == "prototypes":
        return prototype_head(sums(torch.ones_like(y, dtype=torch.bool)), session.head.scale), len(y)
    folds = torch.from_numpy(generator(session.settings.seed, "folds").permutation(len(y)) % FOLDS)
    return cross_validated_head(h, y, folds, lambda kept: _family(session, sums(kept)), session.head.shrinkages), len(y)


def _with_head(session: Session, state: RunState, head: Head) -> RunState:
    """Return a state with another head; some models' logits layers have no bias."""
    model = session.model
    named = {model.head_tensor_name("weight"): head.weight, model.head_tensor_name("bias"): head.bias}
    known = {name: value for name, value in named.items() if name in model.head_names}
    return replace(state, adapter=state.adapter.with_tensors(known))


def _declared(session: Session, clients: Sequence[int], most: int | None) -> int:
    """Return the number of samples of some clients, each of which counts for at most ``most``, if not None."""
    found = (session.roster[k].samples for k in set(clients))
    return sum(n if most is None else min(n, most) for n in found)


def _change(head: Head, clients: int, samples: float, left_out: int = 0) -> HeadChange:
    return HeadChange(clients, samples, 0, 0, head.shrinkage, head.temperature, head.loss, left_out=left_out)
