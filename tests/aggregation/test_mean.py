import numpy as np
import pytest
import torch

from fedhello.aggregation.mean import WeightedMean


def entry_by_entry(values, weights, before):
    """Σ w x / Σ w of each entry by itself; the entry before where the weights are all 0."""
    found = before.copy()
    for i in np.ndindex(before.shape):
        w = [float(np.broadcast_to(weight, before.shape)[i]) for weight in weights]
        if sum(w) > 0:
            found[i] = sum(a * x[i] for a, x in zip(w, values, strict=True)) / sum(w)
    return found


# One number each, one per row, one per column, and both kinds in either order; the last leaves a row to nobody.
WEIGHTS = {
    "numbers": (2.0, 1.0, 5.0),
    "rows": ([[1.0], [0.0], [2.0]], [[3.0], [4.0], [0.0]], [[0.0], [1.0], [1.0]]),
    "columns": ([[1.0, 0.0, 2.0, 1.0]], [[0.0, 5.0, 1.0, 1.0]], [[1.0, 1.0, 0.0, 3.0]]),
    "number first": (2.0, [[3.0], [0.0], [1.0]], 1.0),
    "number last": ([[3.0], [0.0], [1.0]], [[1.0], [0.0], [1.0]], 4.0),
    "a row of nobody": ([[3.0], [0.0], [1.0]], [[1.0], [0.0], [1.0]], [[1.0], [0.0], [2.0]]),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_every_entry_is_the_mean_over_those_who_weigh_there(case):
    rng = np.random.default_rng(0)
    before, *values = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(4))
    mean, weights = WeightedMean(), [np.asarray(w) for w in WEIGHTS[case]]
    for value, w in zip(values, weights, strict=True):
        mean.add("x", torch.from_numpy(value), torch.from_numpy(w) if w.ndim else float(w))
    found = mean.result({"x": torch.from_numpy(before), "y": torch.zeros(1)})
    assert found.keys() == {"x"}
    assert found["x"].dtype == torch.float32
    assert found["x"].numpy() == pytest.approx(entry_by_entry(values, weights, before), rel=1e-6)
    untouched = sum(np.broadcast_to(w, before.shape) for w in weights) == 0
    assert (found["x"].numpy()[untouched] == before[untouched]).all()


def test_sums_run_in_float64_in_rows_too():
    mean, w = WeightedMean(), torch.ones(2, 1, dtype=torch.float64)
    for value in (1e8, *(1.0,) * 1000, -1e8):
        mean.add("x", torch.full((2, 1), value), w)
    assert mean.result({"x": torch.zeros(2, 1)})["x"].flatten().tolist() == pytest.approx([1000 / 1002] * 2, rel=1e-6)


def test_what_is_added_is_not_changed():
    value, w = torch.ones(2, 2, dtype=torch.float64), torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    mean = WeightedMean()
    for _ in range(3):
        mean.add("x", value, w)
    assert torch.equal(value, torch.ones(2, 2, dtype=torch.float64))
    assert w.flatten().tolist() == [1.0, 0.0]
