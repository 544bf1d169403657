import jaxtyping
import numpy as np
import pytest
import torch

from fedhello.aggregation.lowrank import LowRankSum
from fedhello.allocation.geometric import draw_preference
from fedhello.factors import along_components
from fedhello.model.head import Head
from fedhello.model.statistics import packed


@pytest.mark.parametrize(
    "call",
    [
        lambda: LowRankSum().add(B=torch.zeros(5, 2), A=torch.zeros(3, 7)),
        lambda: draw_preference(np.full((2, 2), 1 / 4), np.random.default_rng(0)),
        lambda: along_components("q.lora_A.weight", torch.zeros(2, 2)),
        lambda: Head(weight=torch.zeros(3, 4), bias=torch.zeros(4)),
        lambda: packed(torch.zeros(2, 3)),
    ],
    ids=["aggregation", "allocation", "factors", "head", "statistics"],
)
def test_tensors_that_contradict_their_annotation_are_refused_while_tests_run(call):
    """``conftest.py`` switches this on; without it each of these calls returns something."""
    with pytest.raises(jaxtyping.TypeCheckError, match="Type-check error"):
        call()
