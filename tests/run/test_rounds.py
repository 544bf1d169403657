import contextlib
import json

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


def test_fewer_proxy_samples_than_classes_are_noted(workplace):
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", ["data.proxy=1"]))
    assert len(session.server.proxy) == 1
    assert "the proxy data has 1 of 2 classes, since data.proxy is 1" in session.notes


def test_heads_of_which_the_test_data_has_no_class_are_left_out_and_noted(workplace, call):
    """Clients of one class each; the test file has the one class only."""
    (workplace / "fruit.csv").write_text("text,label\n" + "".join(f"a new apple {i},fruit\n" for i in range(6)))
    words = [
        "model.head=local", "method.name=rgd-hla", "train.loss=cross_entropy", "data.test=fruit.csv",
        "data.partition={kind: pathological, classes_per_client: 1, minimum: 1}",
    ]  # fmt: skip
    code, out, err = call(workplace, "run", "tiny.yaml", "--json", "run.name=one-sided", *words)
    assert code == 0, err
    found = json.loads(out)
    assert found["final_scores"]["samples"] == 6 * 2
    noted = [note for note in found["notes"] if "heads are not scored on it" in note]
    assert len(noted) == 1
    assert noted[0].startswith("the test data has no sample of the classes of clients [")
