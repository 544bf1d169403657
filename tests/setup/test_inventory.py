"""What there is: on this machine, and among the models that can be installed."""

import importlib.metadata
from pathlib import Path

import psutil
import pytest

from fedhello.errors import OutOfReachError
from fedhello.model.sources import EMBEDDED_MODELS, resolve
from fedhello.runs.summarise import versions
from fedhello.setup import inventory as module
from fedhello.setup.inventory import doctor, model_path, models


def test_every_embedded_model_is_listed_with_how_to_install_it():
    found = {model["name"]: model for model in models()}
    assert found.keys() == {f"embedded:{name}" for name in EMBEDDED_MODELS}
    for name, model in found.items():
        assert model["install"].startswith("pip install ")
        assert len(model["sha256"]) == 64
        if model["installed"]:
            resolve(name)
    assert found["embedded:minilm"]["installed"]


@pytest.mark.parametrize(("variable", "offline"), [("1", True), ("0", False), (None, False)])
def test_the_doctor_reads_the_machine(monkeypatch, variable, offline):
    monkeypatch.delenv("HF_HUB_OFFLINE") if variable is None else monkeypatch.setenv("HF_HUB_OFFLINE", variable)
    found = doctor()
    assert found["offline"] == offline
    assert found["versions"] == versions()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert 0 < found["memory_available_bytes"] <= found["memory_bytes"]
    assert found["disk_free_bytes"] > 0
    assert found["device"] in ("cpu", "cuda", "mps")


def test_extras_are_those_of_users_and_installed_where_all_their_packages_are(monkeypatch):
    declared = [
        "torch>=2.6", 'one>=1; extra == "tool"', "other[more]>=2,<3; python_version > '3' and extra == 'tool'",
        'pytest>=8; extra == "test"', 'ruff; extra == "dev"', 'sphinx; extra == "docs"', 'one; extra == "small"',
    ]  # fmt: skip
    there = {"one"}

    def version(package):
        if package not in there:
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(module.importlib.metadata, "requires", lambda package: declared)
    monkeypatch.setattr(module, "versions", dict)
    monkeypatch.setattr(module.importlib.metadata, "version", version)
    assert doctor()["extras"] == {"tool": False, "small": True}
    there.add("other")
    assert doctor()["extras"] == {"tool": True, "small": True}


def test_the_folder_of_a_model_is_found_without_a_network(tmp_path, monkeypatch):
    folder = Path(resolve("embedded:minilm").location)
    assert model_path("embedded:minilm") == model_path("sentence-transformers/all-MiniLM-L6-v2") == folder
    assert (folder / "model.safetensors").is_file()
    (tmp_path / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == tmp_path
    with pytest.raises(OutOfReachError, match="expected a model on this machine; some/model is not in the hub's cache"):
        model_path("some/model")
    for file in ("config.json", "model.safetensors"):
        cached = tmp_path / "models--some--model" / "snapshots" / "0123abc" / file
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text("{}")
    (tmp_path / "models--some--model" / "refs").mkdir()
    (tmp_path / "models--some--model" / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_path("some/model") == cached.parent
