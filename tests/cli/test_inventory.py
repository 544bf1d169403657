"""Commands that list what there is."""

import json
from pathlib import Path

import fedhello as fh


def test_methods_models_and_doctor_answer(call, tmp_path):
    for name in ("methods", "models", "doctor"):
        assert call(tmp_path, name)[0] == 0
        assert json.loads(call(tmp_path, name, "--json")[1])


def test_what_is_listed_is_what_the_library_says(call, tmp_path):
    said = json.loads(call(tmp_path, "doctor", "--json")[1])
    assert said.keys() == fh.doctor().keys()
    assert said["versions"] == fh.doctor()["versions"]
    assert json.loads(call(tmp_path, "models", "--json")[1]) == fh.models()
    assert [row["name"] for row in json.loads(call(tmp_path, "methods", "--json")[1])] == list(fh.METHODS)
    shown = call(tmp_path, "doctor")[1]
    for extra, installed in fh.doctor()["extras"].items():
        assert f"extra {extra}: " + ("installed" if installed else "missing; run: pip install") in shown
    assert "embedded:minilm" in call(tmp_path, "models")[1]


def test_the_folder_of_a_model_is_printed(call, tmp_path):
    code, out, _ = call(tmp_path, "models", "--path", "embedded:minilm")
    assert (code, Path(out.strip()) / "config.json") == (0, fh.model_path("embedded:minilm") / "config.json")
    assert json.loads(call(tmp_path, "models", "--path", "embedded:minilm", "--json")[1])["path"] == out.strip()
    assert call(tmp_path, "models", "--path", "embedded:none")[0] == 4
    assert call(tmp_path, "models", "--path", "no/such")[0] == 8
