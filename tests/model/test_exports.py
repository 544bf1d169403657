"""What a run's model is exported as, besides the adapter: the forms, and what sentence-transformers makes of one."""

import contextlib
import re
import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from fedhello.data.dataset import DataSet
from fedhello.model.evaluation import logits, pooled_features
from fedhello.results.trained import load_trained
from fedhello.runs.folder import RunFolder
from fedhello.setup.encoding import encode

TEXTS = ["iron and copper", "a pear number 3", "  zinc " + "silver number plum " * 20, "cherry"]
"""One of them longer than the run's data.max_length."""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module", params=["cls", "mean", "last"])
def run(request, workplace, call):
    """A run that trains adapter and head, by pooling."""
    name = f"pooled-by-{request.param}"
    words = [f"model.pooling={request.param}", "train.lr=0.1", "model.final=false", f"run.name={name}"]
    code, _, err = call(workplace, "run", "tiny.yaml", "--quiet", "train.selection=last", *words)
    assert code == 0, err
    return workplace / "runs" / name


@pytest.fixture
def exported(run, workplace, call, tmp_path):
    code, _, err = call(workplace, "export", run, "--format", "sentence-transformers", "--out", tmp_path / "st")
    assert code == 0, err
    return tmp_path / "st"


def samples_of(trained):
    data = DataSet(tuple(TEXTS), np.zeros(len(TEXTS), dtype=int), tuple(trained.labels), "texts")
    return encode(data, trained.model, trained.config.data.max_length)[0]


def test_sentence_transformers_computes_the_runs_features_and_logits(run, exported, workplace):
    with contextlib.chdir(workplace):
        trained = load_trained(RunFolder(run))
        samples = samples_of(trained)
        h, z = pooled_features(trained.model, samples), logits(trained.model, samples)
    encoder = SentenceTransformer(str(exported))
    assert encoder.max_seq_length == 16
    encoded = encoder.encode(TEXTS, convert_to_tensor=True).cpu()
    assert torch.allclose(encoded, h / h.shape[1] ** 0.5, atol=1e-5, rtol=0)
    assert torch.allclose(encoded.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)[1]
    found = {}
    with contextlib.chdir(exported):
        exec(compile(code, "README", "exec"), found)
        assert torch.allclose(found["logits"](TEXTS), z, atol=1e-4, rtol=1e-5)


def test_the_adapter_is_part_of_what_is_exported(exported, workplace):
    trained = SentenceTransformer(str(exported))[0].auto_model.state_dict()
    before = AutoModel.from_pretrained(workplace / "tiny").state_dict()
    assert any(not torch.equal(trained[name], value) for name, value in before.items() if "query" in name)


def test_what_sentence_transformers_cannot_pool_is_refused(workplace, call, tmp_path):
    words = ["model.pooling=native", "train.rounds=1", "run.name=pooled-natively"]
    assert call(workplace, "run", "tiny.yaml", "--quiet", *words)[0] == 0
    run, out = workplace / "runs" / "pooled-natively", tmp_path / "st"
    code, _, err = call(workplace, "export", run, "--format", "sentence-transformers", "--out", out)
    assert code == 4
    assert "pooled by cls, mean, last" in err and "found model.pooling=native" in err
    assert not out.exists()


def test_a_form_that_there_is_not_and_two_at_once_are_refused(run, workplace, call, tmp_path):
    for words, said in (
        (["--format", "onnx"], "found 'onnx'"),
        (["--format", "adapter", "--merge"], "found merge and the form adapter"),
    ):
        code, _, err = call(workplace, "export", run, *words, "--out", tmp_path / "out")
        assert (code, said in err) == (2, True)


def test_without_the_package_the_command_to_install_it_is_said(run, workplace, call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    words = ["--format", "sentence-transformers", "--out", tmp_path / "st"]
    code, _, err = call(workplace, "export", run, *words)
    assert code == 6
    assert "pip install 'fedhello[sentence-transformers]'" in err
