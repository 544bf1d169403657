import torch
from hypothesis import given
from hypothesis import strategies as st

from fedhello.types import LORA_A, LORA_B, MERGED, MERGED_A, MERGED_B, Adapter, Allocation, Federation

Q, V = "layer.0.q", "layer.2.v"


def adapter(*merged):
    """Two modules of blocks 0 and 2 with factors of rank 3, a head, and some products."""
    tensors = {"head.weight": torch.zeros(2, 4)}
    for module in (Q, V):
        tensors |= {module + LORA_A: torch.zeros(3, 4), module + LORA_B: torch.zeros(4, 3)}
    block_of = {name: None if name.startswith("head") else int(name.split(".")[1]) for name in tensors}
    return Adapter(tensors, block_of).with_tensors({name: torch.zeros(4, 4) for name in merged})


@given(clients=st.integers(1, 60), per_round=st.integers(1, 60), times=st.floats(1, 4), quorum=st.integers(1, 60))
def test_enough_of_those_who_are_invited_is_never_more_than_they_are(clients, per_round, times, quorum):
    per_round = min(per_round, clients)
    world = Federation((None,) * clients, (), 1, per_round, 0, quorum=min(quorum, per_round), over_selection=times)  # type: ignore[arg-type]
    assert per_round <= world.invited <= clients
    for asked in range(1, per_round + 1):
        assert 1 <= world.enough(asked) <= asked
    assert world.enough(per_round) == world.quorum


def test_a_tenth_more_of_ten_is_eleven():
    world = Federation((None,) * 20, (), 1, 10, 0, over_selection=1.1)  # type: ignore[arg-type]
    assert world.invited == 11


def test_a_client_holds_its_components_or_the_first_of_its_rank_or_all():
    assert Allocation((0, 1), ranks=(2, 1)).held(0, 8) == (0, 1)
    assert Allocation((0, 1), ranks=(2, 2), components=(1, 5)).held(1, 8) == (1, 5)
    drawn = Allocation((0, 1), ranks=(2, 2), components=((1, 5), (0, 7)))
    assert (drawn.held(0, 8), drawn.held(1, 8)) == ((1, 5), (0, 7))
    assert Allocation((0, 1)).held(1, 3) == (0, 1, 2)


@given(
    blocks=st.sets(st.sampled_from([0, 1, 2])), factors=st.sampled_from(["A", "B", "AB"]), head=st.booleans(),
    merged=st.sets(st.sampled_from([Q + MERGED, V + MERGED_A, V + MERGED_B])),
)  # fmt: skip
def test_what_trains_are_the_allocated_factors_and_the_head_and_never_a_product(blocks, factors, head, merged):
    allocation = Allocation(tuple(sorted(blocks)), factors=factors, head=head)
    ends = {"A": [LORA_A], "B": [LORA_B], "AB": [LORA_A, LORA_B]}[factors]
    expected = {module + end for module, block in ((Q, 0), (V, 2)) if block in blocks for end in ends}
    names = adapter(*merged).names(allocation)
    assert set(names) == expected | ({"head.weight"} if head else set())
    assert list(names) == sorted(names)


def test_an_adapter_knows_its_modules_and_its_rank():
    assert adapter(V + MERGED).modules == {Q: 0, V: 2}
    assert adapter().rank == 3


def test_products_belong_to_their_modules_block_and_a_matrix_takes_the_place_of_factors():
    factors = adapter(V + MERGED_A, V + MERGED_B, Q + MERGED_A, Q + MERGED_B)
    assert {factors.block_of[V + end] for end in (MERGED_A, MERGED_B)} == {2}
    after = factors.with_tensors({V + MERGED: torch.ones(4, 4)})
    assert after.tensors.keys() == after.block_of.keys()
    assert after.tensors.keys() == factors.tensors.keys() - {V + MERGED_A, V + MERGED_B} | {V + MERGED}
    assert after.tensors[Q + MERGED_A] is factors.tensors[Q + MERGED_A]
