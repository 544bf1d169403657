"""Laws of the methods that hold whatever the numbers are, played through Algorithm 1 with made-up training.

``dense`` says what an adapter means, s·B·A and what is merged, as plain matrices; sums of these are what is expected.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from fedhello import algorithm
from fedhello.aggregation.bound import USUAL
from fedhello.aggregation.robust import Defence, defended
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext, AllocationContext, with_fixed_head
from fedhello.types import (
    LORA_A,
    LORA_B,
    MERGED,
    MERGED_A,
    MERGED_B,
    Adapter,
    Allocation,
    Budget,
    Client,
    Federation,
    Task,
    Update,
)

R, S = 6, 0.5
SHAPES = {"layer.0.q": (5, 7), "layer.1.v": (8, 6)}
"""(d_out, d_in) of each module; R is as large as either product's rank can be, so an SVD cut to R loses nothing."""

FACTORS = [module + end for module in SHAPES for end in (LORA_A, LORA_B)]
SAMPLES = (3, 1, 7, 2, 5)
NAMES = sorted(METHODS)
HEAD_ALONE = {name for name in NAMES if METHODS[name].head_alone}
"""Those under which no block trains, so that factors stay as they are."""

REFACTORED = {"flexlora", "raflora", "hralora"}
"""Those that factor a product anew: the product is what counts, not the factors."""

FULL = {"legend": {"step": 0}, "fed-pilot": {"compensation": 1.0}}
"""Options under which a client with the full budget trains everything."""


def start(fresh: bool = True, seed: int = 0) -> Adapter:
    """θ⁰: A random, B zero as LoRA starts, or random too."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {"head.weight": torch.randn(3, generator=rng)}
    for module, (d_out, d_in) in SHAPES.items():
        B = torch.randn(d_out, R, generator=rng)
        tensors |= {module + LORA_A: torch.randn(R, d_in, generator=rng), module + LORA_B: B * (not fresh)}
    return Adapter(tensors, {n: None if n.startswith("head") else int(n.split(".")[1]) for n in tensors})


def world(*ranks: int, blocks: int = 2, invited: int | None = None) -> Federation:
    """One client per rank, each in a tier of its own, and with unequal sample counts."""
    tiers = tuple(Budget(blocks=blocks, rank=r) for r in ranks)
    clients = tuple(Client(k, k, tier, SAMPLES[k % 5]) for k, tier in enumerate(tiers))
    return Federation(clients, tiers, 2, invited or len(clients), 0, rank=R, scale=S)


def dense(adapter: Adapter, module: str) -> np.ndarray:
    t = {n: v.double().numpy() for n, v in adapter.tensors.items()}
    whole = S * t[module + LORA_B] @ t[module + LORA_A]
    if module + MERGED in t:
        return whole + t[module + MERGED]
    return whole + t[module + MERGED_B] @ t[module + MERGED_A] if module + MERGED_A in t else whole


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Within 10⁻⁵ of the largest entry."""
    return float(np.abs(found - expected).max()) <= 1e-5 * max(1e-3, float(np.abs(expected).max()))


Values = Callable[[Task], Adapter]
"""What a client has after training: an adapter of the shapes of its task."""


def noise(task: Task) -> Adapter:
    """Every client moves everything at random."""
    rng = torch.Generator().manual_seed(100 * task.round + task.client)
    moved = {n: v + torch.randn(v.shape, generator=rng) for n, v in task.adapter.tensors.items()}
    return Adapter(moved, task.adapter.block_of)


def towards(target: Adapter) -> Values:
    """Every client ends with its part of the same factors."""

    def values(task: Task) -> Adapter:
        found = {}
        for name, like in task.adapter.tensors.items():
            whole = target.tensors.get(name, like)
            along = 1 if name.endswith(LORA_B) else 0
            block = task.adapter.block_of[name]
            held = range(len(like)) if block is None else task.allocation.held(block, R)
            found[name] = whole if whole.shape == like.shape else whole.index_select(along, torch.tensor(held))
        return Adapter(found, task.adapter.block_of)

    return values


@dataclass
class Play:
    """Rounds of a method, and what its clients had after training in the last one."""

    name: str
    world: Federation
    values: Values
    options: dict = field(default_factory=dict)
    adapter: Adapter = field(default_factory=start)

    def __post_init__(self) -> None:
        self.method = METHODS[self.name].bind(**self.options)
        self.state = algorithm.init(self.adapter)
        self.trained: dict[int, Adapter] = {}
        self.allocations: dict[int, Allocation] = {}

    def train(self, tasks):
        for task in tasks:
            names = task.adapter.names(task.allocation)
            after = self.values(task)
            new = {name: after.tensors[name] for name in names}
            self.trained[task.client] = task.adapter.with_tensors(new)
            self.allocations[task.client] = task.allocation
            yield Update(task.client, task.round, self.world.clients[task.client].samples, new, {"batches": 1})

    def round(self) -> "Play":
        self.trained, self.allocations = {}, {}
        self.state, report = algorithm.round(
            self.state, self.world, self.method, self.train, lambda *_: (1.0, 1.0), lambda models, how, t: models
        )
        self.flags = report.flags
        return self

    def starts(self, k: int) -> Adapter:
        """What client k starts the next round from."""
        at = AllocationContext(
            self.world.clients[k], self.world, self.state.round, (1.0, 1.0), method_state=self.state.method_state
        )
        return self.method.send(self.state.adapter, self.method.allocate(at), at).adapter

    def mean_of_trained(self, module: str) -> np.ndarray:
        """Σ_k w_k (s B_k A_k + what client k had merged), w_k = n_k / Σ n_k."""
        n = {k: self.world.clients[k].samples for k in self.trained}
        return sum(n[k] * dense(model, module) for k, model in self.trained.items()) / sum(n.values())

    def models(self) -> list[Adapter]:
        return list(self.method.models(self.state, self.world).values())


def longer(task: Task) -> Adapter:
    """Every client moves everything by another length, with its samples and within four times the least."""
    rng = torch.Generator().manual_seed(100 * task.round + task.client)
    size = SAMPLES[task.client % 5] ** 0.5 * float(1 + 3 * torch.rand((), generator=rng))
    moved = {n: v + size * torch.randn(v.shape, generator=rng).sign() for n, v in task.adapter.tensors.items()}
    return Adapter(moved, task.adapter.block_of)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_on_lengths_changes_no_bit_where_all_are_within_it_and_else_names_who_is_not(name):
    def play(values, times):
        found = Play(name, world(6, 2, 3, 6, 4), values, FULL.get(name, {}))
        found.method = defended(found.method, Defence(max_norm=times))
        return found.round().round().round()

    bounded, plain = (play(longer, times) for times in (5.0, None))
    assert bounded.flags == plain.flags == ()
    for one, other in zip(bounded.models(), plain.models(), strict=True):
        assert all(torch.equal(value, other.tensors[n]) for n, value in one.tensors.items())
    own = {n: v for n, v in bounded.state.method_state.items() if not n.startswith(USUAL)}
    assert own.keys() == plain.state.method_state.keys()
    assert all(torch.equal(v, plain.state.method_state[n]) for n, v in own.items())

    def hostile(task):
        return Adapter({n: v + 1e6 for n, v in task.adapter.tensors.items()}, task.adapter.block_of)

    attacked = play(lambda task: hostile(task) if task.client == 3 else longer(task), 5.0)
    if len(attacked.trained) >= 3:
        assert all(flag.startswith("client 3 moved the model") for flag in attacked.flags)
        assert len(attacked.flags) == 1


OWN, COMMON = [(2, 2, "AB", 2), (2, 6, "AB", 6)], [(2, 2, "AB", 2)] * 2
TABLE = {
    "helora-pad": OWN,
    "helora-kd": OWN,
    "fedit": COMMON,
    "exclusive": [None, (2, 6, "AB", 6)],
    "straggler": [(1, 6, "AB", 6)] * 2,
    "full": [(2, 6, "AB", 6)] * 2,
    "local-only": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "centralised": [(2, 6, "AB", 6)] * 2,
    "fedra": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "fedra-mask": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "legend": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "fedquad": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "fed-pilot": [(1, 6, "AB", 6), (2, 6, "AB", 6)],
    "hetlora": OWN,
    "flexlora": OWN,
    "raflora": OWN,
    "rbla": OWN,
    "replication": OWN,
    "hralora": OWN,
    "fed-plora": [(2, 2, "AB", 6), (2, 6, "AB", 6)],
    "flora": OWN,
    "ffa-lora": [(2, 2, "B", 2)] * 2,
    "rolora": [(2, 2, "B", 2)] * 2,
    "fedex-lora": COMMON,
    "lora-fair": COMMON,
}
"""Of a weak client (one block, rank 2) and a strong one (two, rank 6): how many blocks train in round 0, at what rank,
which factors, and how many components of the last of these blocks come down."""


@pytest.mark.parametrize("name", sorted({*METHODS} - HEAD_ALONE - {"fed-hello", "fim-hla", "gd-hla", "rgd-hla"}))
def test_who_trains_what_and_who_gets_what(name):
    """METHODS §0: server → client, and trained; whatever comes down is the global model where nothing is cut off."""
    play = Play(name, world(2, 6), noise, adapter=start(fresh=False))
    weak = replace(play.world.tiers[0], blocks=1)
    clients = (replace(play.world.clients[0], budget=weak), play.world.clients[1])
    play.world = replace(play.world, tiers=(weak, play.world.tiers[1]), clients=clients)
    for k, expected in enumerate(TABLE[name]):
        at = AllocationContext(play.world.clients[k], play.world, 0, (1.0, 1.0))
        allocation = play.method.allocate(at)
        if expected is None:
            assert allocation is None
            continue
        adapter, last = play.method.send(play.state.adapter, allocation, at).adapter, allocation.blocks[-1]
        module = list(SHAPES)[last]
        A = adapter.tensors[module + LORA_A]
        down = len(A) + len(adapter.tensors.get(module + MERGED_A, ()))
        assert (len(allocation.blocks), len(A), allocation.factors, down) == expected
        assert len(allocation.absent) == (2 - len(allocation.blocks) if name == "fedra" else 0)
        assert [len(own) for own in allocation.components] == ([len(A)] * 2 if name == "fed-plora" else [])
        if down == R:
            assert close(dense(adapter, module), dense(play.state.adapter, module))


@pytest.mark.parametrize("invited", [2, None], ids=["some", "all"])
def test_where_the_head_is_alone_it_is_the_mean_and_all_factors_keep_their_bits(invited):
    """A head that trains; of one that is solved nothing is left to allocate."""
    play = Play("head-only", world(1, 2, 6, invited=invited), noise, adapter=start(fresh=False))
    for _ in range(3):
        play.round()
        n = {k: SAMPLES[k] for k in play.trained}
        mean = sum(n[k] * play.trained[k].tensors["head.weight"].double().numpy() for k in n) / sum(n.values())
        assert len(n) == (invited or 3)
        assert close(play.state.adapter.tensors["head.weight"].numpy(), mean)
        assert all(play.state.adapter.tensors[name] is play.adapter.tensors[name] for name in FACTORS)


@pytest.mark.parametrize(("name", "solved"), [("server-only", False), ("server-only", True), ("head-only", True)])
def test_where_nothing_is_left_to_train_nobody_takes_part_and_rounds_are_committed(name, solved):
    play = Play(name, world(1, 2, 6), noise, adapter=start(fresh=False))
    play.method = with_fixed_head(play.method) if solved else play.method
    for t in range(3):
        play.state, record = algorithm.round(play.state, play.world, play.method, play.train, None)
        assert (record.round, record.failed, record.clients, record.contributors) == (t, None, (), (0, 0))
        assert play.state.round == t + 1
        assert all(play.state.adapter.tensors[n] is v for n, v in play.adapter.tensors.items())
    assert not play.trained


@pytest.mark.parametrize("name", [name for name in NAMES if name not in HEAD_ALONE])
def test_a_fixed_head_neither_trains_nor_changes_who_trains_which_block(name):
    """Also where a client would have trained the head alone: it sits out."""
    play, fixed = Play(name, world(2, 6, 3), noise), Play(name, world(2, 6, 3), noise)
    fixed.method = with_fixed_head(fixed.method)
    play.round(), fixed.round()
    assert {k: a.blocks for k, a in fixed.allocations.items()} == {k: a.blocks for k, a in play.allocations.items()}
    for model in fixed.models():
        assert torch.equal(model.tensors["head.weight"], start().tensors["head.weight"])
    assert not torch.equal(play.models()[0].tensors["head.weight"], start().tensors["head.weight"])
    assert any(not torch.equal(fixed.trained[1].tensors[n], start().tensors[n]) for n in FACTORS)


def test_who_would_train_a_fixed_head_alone_sits_out():
    play = Play("rgd-hla", world(6, 6, blocks=0), noise).round()
    assert {k: a.blocks for k, a in play.allocations.items()} == {0: (), 1: ()}
    fixed = Play("rgd-hla", world(6, 6, blocks=0), noise)
    fixed.method = with_fixed_head(fixed.method)
    assert fixed.round().allocations == {}


EXACT = {
    "flora": [(6, 6, 6), (1, 2, 6), (2, 6, 1, 3)],
    "fedex-lora": [(6, 6, 6), (2, 6, 3)],
    "ffa-lora": [(6, 6, 6), (2, 6, 3)],
    "rolora": [(6, 6, 6), (2, 6, 3)],
    "flexlora": [(6, 6, 6), (1, 2, 6)],
}


@pytest.mark.parametrize(("name", "ranks"), [(name, ranks) for name, cases in EXACT.items() for ranks in cases])
@pytest.mark.parametrize("invited", [2, None], ids=["some", "all"])
def test_product_exact_methods_give_the_mean_of_the_clients_models(name, ranks, invited):
    """Round after round, also to clients that were not there; FlexLoRA before it cuts, so to those of full rank."""
    play = Play(name, world(*ranks, invited=invited), noise)
    for _ in range(5):
        play.round()
        assert len(play.trained) == (invited or len(ranks))
        for k, r in enumerate(ranks):
            if name == "flexlora" and r < R:
                continue
            for module in SHAPES:
                assert close(dense(play.starts(k), module), play.mean_of_trained(module))


def test_flora_adds_up_all_rounds():
    """What is merged before a round, and that round's own Σ w_k s B_k A_k: never a product of a round counted twice."""
    play, total = Play("flora", world(2, 6, 3, invited=2), noise), dict.fromkeys(SHAPES, 0.0)
    for _ in range(4):
        play.round()
        n = {k: SAMPLES[k] for k in play.trained}
        for module in SHAPES:
            for k, model in play.trained.items():
                A, B = (model.tensors[module + end].double().numpy() for end in (LORA_A, LORA_B))
                total[module] = total[module] + n[k] / sum(n.values()) * S * B @ A
            assert close(dense(play.starts(0), module), total[module])
            assert not play.state.adapter.tensors[module + LORA_B].any()


def test_an_average_of_factors_is_not_exact():
    """So that the law above says something."""
    play = Play("fedit", world(6, 6, 6), noise).round()
    play.round()
    assert not close(dense(play.starts(0), "layer.0.q"), play.mean_of_trained("layer.0.q"))


EQUAL = [(name, ranks) for name in NAMES if name not in HEAD_ALONE for ranks in ((6,), (6, 6, 6))]
EQUAL += [(name, ranks) for name in NAMES for ranks in ((2,), (2, 2)) if METHODS[name].allocates == "ranks"]
EQUAL.remove(("fed-plora", (2, 2)))  # both hold two components, but others


@pytest.mark.parametrize(("name", "ranks"), EQUAL)
def test_equal_clients_give_that_client_and_so_does_one(name, ranks):
    """In the sense of the product, for all methods; factor by factor, for those that keep factors as factors.

    Of equal clients below the full rank HeLoRA-Pad has this only with paddings that keep products, ``safe`` or
    ``zero``; see tests/aggregation/test_padding.py for what the others make of them.
    """
    full = max(ranks) == R
    options = FULL.get(name, {}) | ({"padding": "safe"} if name == "helora-pad" and not full else {})
    target = start(fresh=False, seed=5)
    play = Play(name, world(*ranks), towards(target), options).round()
    for model in play.models():
        assert close(model.tensors["head.weight"].numpy(), target.tensors["head.weight"].numpy())
        for module in SHAPES:
            assert close(dense(model, module), dense(play.trained[0], module))
            if full and name not in REFACTORED | {"flora", "ffa-lora", "rolora"}:
                for end in (LORA_A, LORA_B):
                    assert close(model.tensors[module + end].numpy(), target.tensors[module + end].numpy())


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        *((name, True) for name in ("rbla", "replication", "raflora", "fed-plora")),
        # Zeros count as values, a cut product is not the product, and unlike parts sum up to something else.
        *((name, False) for name in ("hetlora", "helora-pad", "flexlora", "flora", "hralora")),
    ],
)
def test_parts_of_the_same_factors_give_these_factors_where_only_holders_count(name, holds):
    target = start(fresh=False, seed=5)
    play = Play(name, world(2, 6, 3), towards(target)).round()
    for module in SHAPES:
        assert close(dense(play.models()[0], module), dense(target, module)) == holds


AVERAGING = (
    "fedit", "rbla", "replication", "helora-pad", "fed-plora", "fedra", "fedra-mask", "legend", "hralora", "full",
    "centralised", "exclusive", "straggler", "gd-hla", "ffa-lora", "rolora",
)  # fmt: skip


@pytest.mark.parametrize("name", AVERAGING)
def test_full_ranks_and_full_allocations_are_textbook_fedavg(name):
    """Ā and B̄ with n_k/Σ n_k (1/K in FedRA); what is frozen stays, and HRALoRA balances B̄ Ā."""
    play = Play(name, world(6, 6, 6, 6), noise, FULL.get(name, {})).round()
    n = [1.0] * 4 if name.startswith("fedra") else SAMPLES[:4]
    after = play.state.adapter

    def mean(end):
        return sum(n[k] * play.trained[k].tensors[end].double().numpy() for k in range(4)) / sum(n)

    assert close(after.tensors["head.weight"].numpy(), mean("head.weight"))
    for module in SHAPES:
        A, B = mean(module + LORA_A), mean(module + LORA_B)
        assert close(dense(after, module), S * B @ A)
        if name != "hralora":
            assert close(after.tensors[module + LORA_A].numpy(), A)
            assert close(after.tensors[module + LORA_B].numpy(), B)


@pytest.mark.parametrize(
    ("name", "clients", "options"),
    [
        ("rbla", world(2, 4, 3), {}),
        ("fed-plora", world(1, 2, 3), {}),
        ("fed-plora", world(1, 1), {}),
        ("legend", world(6, 6, 6), {"step": 2}),
        ("legend", world(6, 6, blocks=1), {"step": 2}),
        ("fedra", world(6, 6, 6, blocks=1), {}),
        ("fedra", world(6, 6, blocks=1), {}),
    ],
)
def test_every_component_is_averaged_over_those_who_hold_it_and_else_stays(name, clients, options):
    """One by one: row j of A and column j of B of each module; by samples, in FedRA by clients."""
    play = Play(name, clients, noise, options, adapter=start(fresh=False))
    before = play.adapter.tensors
    for _ in range(3):
        play.round()
        for block, module in enumerate(SHAPES):
            for j in range(R):
                parts = []
                for k, a in play.allocations.items():
                    held = a.held(block, R)
                    if block in a.blocks and j in held:
                        w = 1 if name == "fedra" else SAMPLES[k]
                        parts.append((w, play.trained[k].tensors, list(held).index(j)))
                for end, along in ((LORA_A, 0), (LORA_B, 1)):
                    found = play.state.adapter.tensors[module + end].select(along, j)
                    if not parts:
                        assert torch.equal(found, before[module + end].select(along, j))
                        continue
                    total = sum(w * t[module + end].select(along, i).double().numpy() for w, t, i in parts)
                    assert close(found.numpy(), total / sum(w for w, _, _ in parts))
        before = play.state.adapter.tensors


def context_of(
    name: str, ranks=(2, 6, 3), method_state=None, fresh: bool = False
) -> tuple[Callable, AggregationContext, list[Update]]:
    """A method's aggregator, its context, and updates of the named ranks, whatever the method allocates."""
    w, whole = world(*ranks), start(fresh)
    allocations = {k: Allocation((0, 1), ranks=(r, r)) for k, r in enumerate(ranks)}
    updates = []
    for k, r in enumerate(ranks):
        values = towards(start(False, seed=10 + k))
        cut = {n: v if n.startswith("head") else v[:r] if n.endswith(LORA_A) else v[:, :r]
               for n, v in whole.tensors.items()}  # fmt: skip
        task = Task(k, 0, allocations[k], Adapter(cut, whole.block_of))
        updates.append(Update(k, 0, SAMPLES[k], values(task).tensors, {"batches": 1}))
    context = AggregationContext(whole, w, 0, allocations, method_state or {}, lambda models, how, t: models)
    return METHODS[name].bind().aggregate, context, updates


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_nobody_trained_keeps_its_bits(name):
    aggregate, context, updates = context_of(name, ranks=(6, 6))
    some = [replace(u, tensors={n: v for n, v in u.tensors.items() if n.startswith("layer.1")}) for u in updates]
    after = aggregate(context, some).adapter.tensors
    assert {n for n in after if n.startswith("layer.0")} == {"layer.0.q" + LORA_A, "layer.0.q" + LORA_B}
    for n, before in context.adapter.tensors.items():
        same = torch.equal(after[n], before)
        assert same if not n.startswith("layer.1") or name == "local-only" else not same


@pytest.mark.parametrize("name", NAMES)
def test_where_nobody_answers_nothing_changes(name):
    aggregate, context, _ = context_of(name, method_state={"rank/1": torch.tensor(2)} if name == "hetlora" else None)
    outcome = aggregate(replace(context, allocations={}), iter(()))
    assert outcome.adapter.tensors.keys() == context.adapter.tensors.keys()
    assert all(torch.equal(v, context.adapter.tensors[n]) for n, v in outcome.adapter.tensors.items())
    assert outcome.method_state == context.method_state


@pytest.mark.parametrize("name", [n for n in NAMES if n != "local-only"])  # which keeps every client's model
def test_updates_are_consumed_one_by_one(name):
    """At any time the storage of a few updates is alive; NumPy arrays below the tensors tell when it is freed."""
    aggregate, context, updates = context_of(name)
    alive: set[int] = set()
    most = 0

    def stream():
        nonlocal most
        for i in range(60):
            like, tensors = updates[i % 3], {}
            for n, v in like.tensors.items():
                array = v.numpy().copy()
                alive.add(id(array))
                weakref.finalize(array, alive.discard, id(array))
                tensors[n] = torch.from_numpy(array)
                del array
            most = max(most, len(alive))
            u = replace(like, tensors=tensors)
            del tensors
            yield u
            del u

    aggregate(context, stream())
    assert most <= 3 * len(updates[0].tensors)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("local-only", "server-only")])
def test_a_whole_round_with_the_default_defences_holds_three_updates_and_one_that_comes(name):
    play = Play(name, world(*[R] * 40), noise, options=FULL.get(name, {}))
    play.method, inner = defended(play.method, Defence()), play.train
    alive: dict[int, int] = {}
    most = came = 0

    def train(tasks):
        nonlocal most, came
        for like in inner(tasks):
            arrays = {n: v.numpy().copy() for n, v in like.tensors.items()}
            for array in arrays.values():
                alive[id(array)] = like.client
                weakref.finalize(array, alive.pop, id(array), None)
            u = replace(like, tensors={n: torch.from_numpy(array) for n, array in arrays.items()})
            del arrays, array
            came, most = came + 1, max(most, len({*alive.values()}))
            yield u
            del u

    play.train = train
    play.round()
    assert most <= 4 <= came or came == 1


@pytest.mark.parametrize("ranks", [(6, 6, 6), (2, 6, 3)])
@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_clients_changes_nothing_but_rounding(name, ranks):
    aggregate, context, updates = context_of(name, ranks)
    one, *others = (aggregate(context, [updates[k] for k in order]) for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)))
    for other in others:
        assert one.method_state.keys() == other.method_state.keys()
        assert close(one.adapter.tensors["head.weight"].numpy(), other.adapter.tensors["head.weight"].numpy())
        for module in SHAPES:
            assert close(dense(one.adapter, module), dense(other.adapter, module))


@pytest.mark.parametrize("name", ["rbla", "replication", "fed-plora"])
def test_a_component_that_nobody_holds_keeps_the_global_row_and_column(name):
    aggregate, context, updates = context_of(name, (2, 3))
    after = aggregate(context, updates).adapter.tensors
    for module in SHAPES:
        A, B = context.adapter.tensors[module + LORA_A], context.adapter.tensors[module + LORA_B]
        assert torch.equal(after[module + LORA_A][3:], A[3:])
        assert torch.equal(after[module + LORA_B][:, 3:], B[:, 3:])
        assert not torch.isclose(after[module + LORA_A][:3], A[:3]).all(dim=1).any()


def test_raflora_keeps_the_global_part_of_a_partition_that_nobody_holds():
    aggregate, context, (first, second) = context_of("raflora", (2, 3))
    after = aggregate(context, [first, second]).adapter
    for module in SHAPES:

        def product(tensors, components, module=module):
            A, B = (tensors[module + end].double().numpy() for end in (LORA_A, LORA_B))
            return B[:, components] @ A[components]

        held = (3 * product(first.tensors, [0, 1]) + product(second.tensors, [0, 1])) / 4
        expected = held + product(second.tensors, [2]) + product(context.adapter.tensors, [3, 4, 5])
        assert close(dense(after, module), S * expected)


@pytest.mark.parametrize(
    "name",
    [
        "rbla", "replication", "helora-pad", "fedit", "fed-plora", "flora", "fedex-lora", "lora-fair",
        "flexlora", "raflora", "hralora", "helora-kd",
    ],
)  # fmt: skip
def test_a_component_that_no_client_held_can_still_learn(name):
    """B is zero there at the start; then A must not be: ∂ℓ/∂A_j ∝ B_j and ∂ℓ/∂B_j ∝ A_j.

    HetLoRA is not among these: it averages the zeros of its padding, as the paper has it.
    """
    play = Play(name, world(2, 2), noise).round()
    for module in SHAPES:
        A, B = (play.state.adapter.tensors[module + end] for end in (LORA_A, LORA_B))
        assert (A.norm(dim=1) + B.norm(dim=0) > 1e-6).all()


def test_a_client_that_hetlora_prunes_trains_at_its_lower_rank_from_then_on():
    """Client 0's tail fades in every round, client 1's grows: 6 → 5 → 4 …, and 6."""

    def values(task):
        shrink = 0.5 if task.client == 0 else 2.0
        tail = task.allocation.ranks[0] - 1
        moved = {n: torch.cat([v[:, :tail], v[:, tail:] * shrink], dim=1) if n.endswith(LORA_B) else v
                 for n, v in task.adapter.tensors.items()}  # fmt: skip
        return Adapter(moved, task.adapter.block_of)

    play = Play("hetlora", world(6, 6), values, {"rank_min": 3}, adapter=start(fresh=False))
    ranks = []
    for _ in range(5):
        play.round()
        ranks.append([play.trained[k].rank for k in range(2)])
    assert ranks == [[6, 6], [5, 6], [4, 6], [3, 6], [3, 6]]
    assert play.starts(0).tensors["layer.0.q" + LORA_A].shape == (3, 7)


@pytest.mark.parametrize("name", ["rolora", "hralora"])
def test_methods_that_take_turns_leave_the_other_factor_alone(name):
    """B in even rounds, A in odd ones (HRALoRA after its warm-up): uploads hold that factor alone, and the head."""
    play = Play(name, world(6, 6), noise, {"warmup": 0} if name == "hralora" else {})
    uploads = []
    train = play.train
    play.train = lambda tasks: (uploads.append(set(u.tensors)) or u for u in train(tasks))
    for t in range(4):
        before = play.state.adapter.tensors
        play.round()
        end = LORA_A if t % 2 else LORA_B
        assert uploads[-1] == uploads[-2] == {module + end for module in SHAPES} | {"head.weight"}
        for module in SHAPES:
            other = module + (LORA_B if t % 2 else LORA_A)
            if name == "rolora":
                assert play.state.adapter.tensors[other] is before[other]
            assert close(dense(play.state.adapter, module), play.mean_of_trained(module))
