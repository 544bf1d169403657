import contextlib

import pytest
import torch

from fedhello.run.config import load_config
from fedhello.run.rounds import evaluate_adapter
from fedhello.run.session import prepare


@pytest.mark.parametrize(("autocast", "expected"), [("none", torch.float32), ("bfloat16", torch.bfloat16)])
def test_evaluation_runs_in_the_number_type_of_training(autocast, expected, workplace):
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", [f"train.autocast={autocast}"]))
    found = set()
    query = next(m for name, m in session.model.module.named_modules() if name.endswith("query.base_layer"))
    query.register_forward_hook(lambda module, inputs, output: found.add(output.dtype))
    validation, test = evaluate_adapter(session, session.model.snapshot(share_head=True))
    assert found == {expected}
    assert validation.loss > 0
    assert test.samples == len(session.server.test)
