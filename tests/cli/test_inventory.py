import importlib.metadata
import json

import pytest

from fedhello.cli import inventory
from fedhello.methods import METHODS
from fedhello.model.sources import EMBEDDED_MODELS


@pytest.mark.parametrize("name", ["methods", "models", "doctor"])
def test_what_is_shown_is_what_json_says(name, call, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    code, shown, err = call(tmp_path, name)
    assert (code, err) == (0, "")
    code, out, err = call(tmp_path, name, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    found = json.loads(out)
    names = {"methods": "name", "models": "hub_id"}
    for word in found["extras"] if name == "doctor" else [row[names[name]] for row in found]:
        assert word in shown


def test_every_method_and_embedded_model_is_listed(call, tmp_path):
    methods = json.loads(call(tmp_path, "methods", "--json")[1])
    assert [row["name"] for row in methods] == list(METHODS)
    assert methods[0]["options"] == METHODS[methods[0]["name"]].options().model_dump()
    models = json.loads(call(tmp_path, "models", "--json")[1])
    assert [row["name"] for row in models] == [f"embedded:{name}" for name in EMBEDDED_MODELS]


def test_an_extra_that_is_not_there_comes_with_its_command(call, tmp_path, monkeypatch):
    version = importlib.metadata.version

    def without_matplotlib(package):
        if package == "matplotlib":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(inventory.importlib.metadata, "version", without_matplotlib)
    out = call(tmp_path, "doctor")[1]
    assert "extra report: missing; run: pip install 'fedhello[report]'" in out
    extras = json.loads(call(tmp_path, "doctor", "--json")[1])["extras"]
    assert not extras["report"]
    assert not {"test", "dev"} & extras.keys()
