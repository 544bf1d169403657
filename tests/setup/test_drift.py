import contextlib

import numpy as np

import fedhello as fh


def test_drift_is_compensated_with_the_servers_samples_in_an_order_of_the_seed(workplace):
    with contextlib.chdir(workplace):
        drift = fh.prepare("tiny.yaml").drift
        other = fh.prepare("tiny.yaml", {"run.seed": 1}).drift
        assert fh.prepare("tiny.yaml", {"model.drift_compensation": False}).drift is None
    assert len(drift.parts) == 2, "validation and proxy data"
    assert sorted(drift.order) == list(range(sum(map(len, drift.parts))))
    assert not np.array_equal(drift.order, other.order)
