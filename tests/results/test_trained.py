"""A run's models, read back by ``evaluate``, ``predict`` and ``export``."""

import json
import shutil

import pytest
import safetensors.torch
import torch

RANKS = "clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 4}]"
SEVERAL = {
    "local-only": ["method.name=local-only"],
    "helora-kd": ["method.name=helora-kd", "data.public=8", RANKS],
}


@pytest.fixture(scope="module", params=SEVERAL)
def several(request, workplace, call):
    """A run that leads to several models; its folder and summary."""
    name = f"several-{request.param}"
    code, out, err = call(workplace, "run", "tiny.yaml", "--json", f"run.name={name}", *SEVERAL[request.param])
    assert code == 0, err
    return workplace / "runs" / name, json.loads(out)


@pytest.fixture
def copied(workplace, call, tmp_path):
    """A run of one model, on a base of its own."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    code, _, err = call(tmp_path / "place", "run", "tiny.yaml", "--quiet", "run.name=it")
    assert code == 0, err
    return tmp_path / "place"


def test_several_models_are_scored_as_the_run_did(several, workplace, call):
    folder, summary = several
    code, out, err = call(workplace, "evaluate", folder, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["test"]["accuracy"] == pytest.approx(summary["final"])
    assert found["test"]["loss"] == pytest.approx(summary["final_scores"]["loss"], rel=1e-5)
    names = sorted(file.stem for file in (folder / "models").iterdir())
    assert sorted(found["models"]) == names
    assert err == f"note: the scores are means over {len(names)} models: {', '.join(names)}\n"


@pytest.mark.parametrize("words", [("predict", "a text"), ("export", "--merge")])
def test_one_of_several_models_must_be_named(words, several, workplace, call, tmp_path):
    folder, _ = several
    command, *rest = words
    more = ["--out", tmp_path / "out"] if command == "export" else []
    code, _, err = call(workplace, command, folder, *rest, *more)
    names = ", ".join(sorted(file.stem for file in (folder / "models").iterdir()))
    assert code == 2
    assert err == f"error: expected a model, since this run has several; choose one of: {names}\n"
    code, _, err = call(workplace, command, folder, *rest, *more, "--model", "mine")
    assert (code, "has several, found mine; choose one of" in err) == (2, True)
    chosen = names.split(", ")[-1]
    assert call(workplace, command, folder, *rest, *more, "--model", chosen)[0] == 0


def test_the_named_model_is_exported(several, workplace, call, tmp_path):
    folder, _ = several
    for file in (folder / "models").iterdir():
        assert call(workplace, "export", folder, "--model", file.stem, "--out", tmp_path / file.stem)[0] == 0
        found = safetensors.torch.load_file(tmp_path / file.stem / "adapter_model.safetensors")
        expected = safetensors.torch.load_file(file)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_model_that_nobody_trained_is_noted(workplace, call):
    words = ["method.name=local-only", "train.rounds=1", "train.clients_per_round=1", "run.name=alone"]
    assert call(workplace, "run", "tiny.yaml", "--quiet", *words)[0] == 0
    folder = workplace / "runs" / "alone"
    entry = json.loads((folder / "rounds.jsonl").read_text())
    trained = entry["clients"][0]["client"]
    for k in range(4):
        code, _, err = call(workplace, "predict", folder, "a text", "--json", "--model", f"client-{k}")
        assert code == 0
        noted = f"note: client-{k} took part in no round, so its model is untrained\n"
        assert err == ("" if k == trained else noted)


def test_the_only_clients_own_model_is_the_adapter(workplace, call):
    words = ["method.name=local-only", "data.clients=1", "train.clients_per_round=1", "run.name=only"]
    code, out, err = call(workplace, "run", "tiny.yaml", "--json", *words, "clients.tiers=[{share: 1, blocks: 3}]")
    assert code == 0, err
    folder = workplace / "runs" / "only"
    assert not (folder / "models").exists()
    code, evaluated, err = call(workplace, "evaluate", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(evaluated)["test"]["loss"] == pytest.approx(json.loads(out)["final_scores"]["loss"], rel=1e-5)


def test_a_model_and_a_head_are_of_one_client(workplace, call):
    words = ["method.name=local-only", "model.head=local", "train.clients_per_round=4", "run.name=own"]
    assert call(workplace, "run", "tiny.yaml", "--quiet", *words)[0] == 0
    run = workplace / "runs" / "own"
    assert call(workplace, "predict", run, "a text", "--model", "client-1", "--client", "1")[0] == 0
    code, _, err = call(workplace, "predict", run, "a text", "--model", "client-1", "--client", "2")
    assert (code, "found model client-1 and client 2" in err) == (2, True)


def test_a_run_of_one_model_takes_no_name(copied, call):
    code, _, err = call(copied, "predict", "runs/it", "a text", "--model", "client-0")
    assert (code, err) == (2, "error: expected no model, since this run has only one; leave it out\n")


@pytest.mark.parametrize("words", [("evaluate",), ("predict", "a text"), ("export", "--merge")])
def test_other_weights_of_the_same_shapes_are_refused(words, copied, call):
    command, *rest = words
    assert call(copied, command, "runs/it", *rest)[0] == 0
    shutil.rmtree(copied / "runs" / "it" / "export", ignore_errors=True)
    file = copied / "tiny" / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    changed = {name: value + 0.01 if "query" in name else value for name, value in weights.items()}
    safetensors.torch.save_file(changed, file, metadata={"format": "pt"})
    code, _, err = call(copied, command, "runs/it", *rest)
    assert code == 4
    assert "expected the weights of tiny that runs/it was trained on; found others of the same shapes" in err


def test_a_run_that_does_not_say_its_weights_is_read_with_a_note(copied, call):
    file = copied / "runs" / "it" / "summary.json"
    summary = json.loads(file.read_text())
    del summary["weights"]
    file.write_text(json.dumps(summary))
    code, _, err = call(copied, "predict", "runs/it", "a text")
    assert code == 0
    assert err.startswith("note: runs/it has no digest of its frozen weights")
