import pytest
import torch

import fedhello as fh
from fedhello.model.private_sums import WHOLE
from fedhello.model.statistics import HeadSums
from fedhello.runs.loop import start
from fedhello.runs.private_heads import ledger_of, private_family

pytest.importorskip("dp_accounting")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("head", ["means", "moments"])
def test_a_run_starts_from_one_release_that_is_in_its_ledger(head):
    """Of class means alone the covariance is the same in all directions; second moments tell directions apart."""
    words = {"method.name": "head-only", "train.rounds": 1}
    session = fh.prepare("tiny.yaml", words | {"privacy.epsilon": 400.0, "privacy.head": head, "privacy.clip": 1.0})
    found = start(session)
    ledger = ledger_of(session.private, found.state)
    assert [one.name for one in ledger.releases] == ["head statistics"]
    assert found.head.noise == ledger.releases[0].noise < 0.06
    sums = HeadSums(**found.state.head_sums)
    assert len(sums.moments) == WHOLE.numbers(sums.features.shape[1])
    family = private_family(session, sums)
    isotropic = torch.allclose(family.values, family.values.mean(), rtol=1e-6)
    assert isotropic is (head == "means")
