import torch

from fedhello.model.digest import VALUES, digest_of


def test_a_digest_is_of_names_types_shapes_and_values():
    weight = torch.arange(6.0)
    base = digest_of([("w", weight)])
    assert digest_of([("w", weight.clone())]) == base
    others = [("v", weight), ("w", weight.double()), ("w", weight.reshape(2, 3)), ("w", weight + 1)]
    assert len({base, *(digest_of([one]) for one in others)}) == 5
    assert digest_of([("w", weight), ("v", weight)]) != digest_of([("v", weight), ("w", weight)])


def test_of_a_large_tensor_some_values_count_spread_over_all_of_it():
    weight = torch.zeros(100 * VALUES)
    base = digest_of([("w", weight)])
    assert digest_of([("w", weight + torch.linspace(0, 1, len(weight)))]) != base
    for i in (0, 50 * VALUES - 50 * VALUES % 100, 100 * VALUES - 100):
        changed = weight.clone()
        changed[i] = 1
        assert digest_of([("w", changed)]) != base, i


def test_weights_in_bf16_have_one_too():
    assert digest_of([("w", torch.ones(3, dtype=torch.bfloat16))]) != digest_of([("w", torch.ones(3))])
