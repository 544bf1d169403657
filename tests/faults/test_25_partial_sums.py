"""Case 25: means of parts, merged by their weights, are the mean of all."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.aggregation.mean import WeightedMean


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(1, 1000)), min_size=2, max_size=20), st.data())
def test_sums_of_parts_are_the_sum(values, data):
    cut = data.draw(st.integers(1, len(values) - 1))

    def mean(pairs):
        found = WeightedMean()
        for value, weight in pairs:
            found.add("x", torch.tensor([value], dtype=torch.float64), float(weight))
        return found

    whole, parts = mean(values), [mean(values[:cut]), mean(values[cut:])]
    merged = WeightedMean()
    for part in parts:
        total = float(part.totals["x"])
        merged.add("x", part.sums["x"] / total, total)
    before = {"x": torch.zeros(1, dtype=torch.float64)}
    assert torch.allclose(merged.result(before)["x"], whole.result(before)["x"], rtol=1e-12, atol=1e-9)
