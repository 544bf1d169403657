"""Case 58: whatever ranks the clients had, PEFT loads what a run exports, and computes what the run computed."""

import contextlib

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from fedhello.config.load import load_config
from fedhello.runs.folder import RunFolder
from fedhello.runs.runner import run_session
from fedhello.setup import prepare as sessions

IDS = torch.randint(1, 50, (4, 7), generator=torch.Generator().manual_seed(0))
TWO_RANKS = "clients.tiers=[{share: 1/2, blocks: 3, rank: 1}, {share: 1/2, blocks: 3, rank: 3}]"
UNEQUAL = {
    "hetlora": ["method.name=hetlora", TWO_RANKS],
    "flexlora": ["method.name=flexlora", TWO_RANKS],
    "flora": ["method.name=flora", TWO_RANKS],  # stacks: what is merged makes the exported rank grow
    "fed-plora": ["method.name=fed-plora", TWO_RANKS],
    "blocks": ["method.name=gd-hla", "method.pattern=triangle"],  # the last block has fewer holders
    "rslora": ["method.name=flora", TWO_RANKS, "model.lora.rslora=true"],  # a scale that depends on the rank otherwise
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT, that the head is new


def logits(module):
    module.eval()
    with torch.inference_mode():
        return module(input_ids=IDS).logits


@pytest.fixture(params=UNEQUAL)
def played(request, workplace, tmp_path):
    """Play two rounds; return the logits of the model in memory and the run's folder."""
    transformers_logging.set_verbosity_error()
    with contextlib.chdir(workplace):
        session = sessions.prepare(
            load_config(workplace / "tiny.yaml", ["model.head=prototypes", *UNEQUAL[request.param]])
        )
        run_session(session, RunFolder(tmp_path / "run"))
    return logits(session.model.module), tmp_path / "run"


def test_peft_and_transformers_compute_what_the_run_did(played, workplace, call, tmp_path):
    expected, run = played
    assert call(workplace, "export", run, "--out", tmp_path / "adapter")[0] == 0
    base = AutoModelForSequenceClassification.from_pretrained(workplace / "tiny", num_labels=2)
    before = logits(base)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    result = loaded.load_adapter(str(tmp_path / "adapter"), adapter_name="again")
    assert [key for key in result.missing_keys if "again" in key] == []
    assert result.unexpected_keys == []
    assert torch.allclose(logits(loaded), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert call(workplace, "export", run, "--merge", "--out", tmp_path / "merged")[0] == 0
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(merged), expected, atol=1e-4, rtol=0)
