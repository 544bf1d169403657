"""Laws of averaging that hold whatever the numbers are."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.errors import UpdateError
from fedhello.strategy import AggregationContext
from fedhello.types import Adapter, Federation, Update

WORLD = Federation((), (), num_blocks=2, clients_per_round=1, seed=0)


def averaged(adapter: Adapter, some, **options) -> Adapter:
    return average_layerwise(AggregationContext(adapter, WORLD, 0, {}), some, **options).adapter


NAMES = ("a", "b", "head")
finite = st.floats(-1e3, 1e3, width=32)


def adapter_of(a: float, b: float, head: float) -> Adapter:
    tensors = {"a": torch.tensor([a]), "b": torch.tensor([b, b]), "head": torch.tensor([head])}
    return Adapter(tensors, {"a": 0, "b": 1, "head": None})


def update(client: int, samples: int, **values: float) -> Update:
    shapes = {"a": 1, "b": 2, "head": 1}
    tensors = {name: torch.full((shapes[name],), value) for name, value in values.items()}
    return Update(client=client, round=0, samples=samples, tensors=tensors, metrics={"batches": max(1, samples // 2)})


ZERO = adapter_of(0.0, 0.0, 0.0)
updates = st.lists(
    st.tuples(st.integers(1, 1000), finite, finite, finite, st.sets(st.sampled_from(NAMES), min_size=1)),
    min_size=1,
    max_size=6,
).map(
    lambda rows: [
        update(k, n, **{name: v for name, v in zip(NAMES, (a, b, h), strict=True) if name in held})
        for k, (n, a, b, h, held) in enumerate(rows)
    ]
)


@given(st.integers(1, 50), finite, finite, finite)
def test_identity_equal_updates_give_that_update(count, a, b, head):
    result = averaged(ZERO, [update(k, 1 + k, a=a, b=b, head=head) for k in range(count)])
    for name, value in (("a", a), ("b", b), ("head", head)):
        assert torch.equal(result.tensors[name], torch.full_like(result.tensors[name], value))


@given(updates)
def test_one_client_returns_itself_bit_for_bit(some):
    result = averaged(ZERO, some[:1])
    for name, value in some[0].tensors.items():
        assert torch.equal(result.tensors[name], value)


@given(updates, st.randoms())
def test_permutation_changes_nothing_but_rounding(some, random):
    shuffled = random.sample(some, len(some))
    one, other = averaged(ZERO, some), averaged(ZERO, shuffled)
    for name in NAMES:
        assert torch.allclose(one.tensors[name], other.tensors[name], rtol=1e-6, atol=1e-5)


@given(updates)
def test_the_same_order_gives_the_same_bits(some):
    one, other = averaged(ZERO, iter(some)), averaged(ZERO, iter(some))
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in NAMES)


@given(updates)
def test_convexity_the_mean_lies_between_its_contributors(some):
    result = averaged(ZERO, some)
    for name in NAMES:
        held = [float(u.tensors[name][0]) for u in some if name in u.tensors]
        if held:
            assert min(held) <= float(result.tensors[name][0]) <= max(held)


@given(updates)
def test_a_tensor_that_nobody_trained_is_the_same_object(some):
    only_a = [Update(u.client, 0, u.samples, {n: v for n, v in u.tensors.items() if n == "a"}) for u in some]
    before = adapter_of(1.0, 2.0, 3.0)
    result = averaged(before, only_a)
    assert result.tensors["b"] is before.tensors["b"]
    assert result.tensors["head"] is before.tensors["head"]


def test_nobody_answers_and_nothing_changes():
    before = adapter_of(1.0, 2.0, 3.0)
    assert averaged(before, []).tensors == before.tensors


def test_full_sets_are_textbook_fedavg_by_hand():
    # n = 1, 3: (1·2 + 3·6)/4 = 5;  (1·10 + 3·2)/4 = 4;  (1·0 + 3·8)/4 = 6
    result = averaged(ZERO, [update(0, 1, a=2.0, b=10.0, head=0.0), update(1, 3, a=6.0, b=2.0, head=8.0)])
    assert [float(result.tensors[name][0]) for name in NAMES] == [5.0, 4.0, 6.0]


def test_disjoint_sets_are_two_independent_fedavgs():
    mixed = averaged(ZERO, [update(0, 1, a=2.0), update(1, 2, b=5.0), update(2, 3, a=6.0), update(3, 2, b=7.0)])
    only_a = averaged(ZERO, [update(0, 1, a=2.0), update(2, 3, a=6.0)])
    only_b = averaged(ZERO, [update(1, 2, b=5.0), update(3, 2, b=7.0)])
    assert float(mixed.tensors["a"]) == float(only_a.tensors["a"]) == 5.0
    assert torch.equal(mixed.tensors["b"], only_b.tensors["b"])
    assert float(mixed.tensors["b"][0]) == 6.0


@pytest.mark.parametrize(("weighting", "expected"), [("samples", 5.0), ("clients", 4.0), ("batches", 5.2)])
def test_weightings_by_hand(weighting, expected):
    # samples 2 and 6; 1 and 1; batches 1 and 4 (set apart from the samples on purpose)
    first = update(0, 2, a=2.0)
    second = Update(1, 0, 6, {"a": torch.tensor([6.0])}, metrics={"batches": 4})
    result = averaged(ZERO, [first, second], weighting=weighting)
    assert float(result.tensors["a"]) == pytest.approx(expected)


def test_sums_run_in_float64():
    big = [update(0, 1, a=1e8), *(update(k, 1, a=1.0) for k in range(1, 1001)), update(1001, 1, a=-1e8)]
    result = averaged(ZERO, big)
    assert float(result.tensors["a"]) == pytest.approx(1000 / 1002, rel=1e-6)


def test_memory_is_that_of_one_adapter_however_many_clients_answer():
    alive = 0
    most = 0

    def stream():
        nonlocal alive, most
        import weakref

        def gone(_):
            nonlocal alive
            alive -= 1

        references = []
        for k in range(50):
            tensor = torch.full((1,), float(k))
            references.append(weakref.ref(tensor, gone))
            alive += 1
            most = max(most, alive)
            u = Update(k, 0, 1, {"a": tensor})
            del tensor
            yield u
            del u

    averaged(ZERO, stream())
    assert most <= 3


@pytest.mark.parametrize("batches", [0, 7, float("nan"), None])
def test_an_impossible_number_of_batches_is_refused(batches):
    metrics = {} if batches is None else {"batches": batches}
    with pytest.raises(UpdateError, match="between 1 and 6 batches"):
        averaged(ZERO, [Update(1, 0, 6, {"a": torch.tensor([6.0])}, metrics)], weighting="batches")
