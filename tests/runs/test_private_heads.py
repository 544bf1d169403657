import pytest
import torch

import fedhello as fh
from fedhello.model.head import within_covariance
from fedhello.model.private_sums import WHOLE
from fedhello.model.statistics import HeadSums
from fedhello.runs.loop import start
from fedhello.runs.private_heads import ledger_of

pytest.importorskip("dp_accounting")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("head", ["means", "moments"])
def test_a_run_starts_from_one_release_that_is_in_its_ledger(head):
    words = {"method.name": "head-only", "train.rounds": 1}
    session = fh.prepare("tiny.yaml", words | {"privacy.epsilon": 400.0, "privacy.head": head, "privacy.clip": 1.0})
    found = start(session)
    ledger = ledger_of(session.private, found.state)
    assert [one.name for one in ledger.releases] == ["head statistics"]
    assert found.head.noise == ledger.releases[0].noise < 0.06
    sums = HeadSums(**found.state.head_sums)
    assert len(sums.moments) == WHOLE.numbers(sums.features.shape[1])
    # Directions are told apart: by second moments, or by the server's own samples.
    values = torch.linalg.eigvalsh(within_covariance(sums, WHOLE))
    assert float(values.max()) > 3 * float(values.median())
