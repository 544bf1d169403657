"""The embedded demo: a real model on real data, from the command line to a PEFT adapter."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from fedhello.config.load import load_config, parse_config
from fedhello.config.stored import stored_config
from fedhello.model.pooling import PooledClassifier
from fedhello.model.sources import EMBEDDED_MODELS, resolve
from fedhello.runs.console import loading_lines
from fedhello.runs.folder import RunFolder
from fedhello.runs.runner import run_session
from fedhello.setup import prepare as sessions

THREE_ROUNDS = ["train.rounds=3", "method.warmup=1", "data.proxy=20", "train.selection=last"]
SOME = "data.samples=400"
"""Of the demo's 2,096 headlines: enough for what does not depend on how many they are."""
HEADLINES = ["Chancellor prepares budget for voters", "Striker scores twice in cup final", "New phone has faster chip"]


def run_demo(out: Path, *overrides: str) -> tuple[sessions.Session, RunFolder, dict]:
    config = load_config(None, [*THREE_ROUNDS, SOME, f"run.out={out}", "run.name=demo", *overrides])
    session = sessions.prepare(config)
    folder = RunFolder(out / "demo")
    return session, folder, run_session(session, folder).to_dict()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def played_logits(demo):
    """The logits of the model in memory as the run left it, before any other test writes to it."""
    session, _, _ = demo
    return logits_of(session.model.module, session.model.source.location)


def test_the_demo_begins_with_what_the_solved_head_is_worth_and_keeps_it(tmp_path):
    more = ["data.samples=null", "train.rounds=1", "train.selection=auto", "train.measure_memory=false"]
    _, _, summary = run_demo(tmp_path, *more)
    assert (summary["status"], summary["rounds"]) == ("finished", 1)
    assert 0.86 < summary["start"] < 0.91  # what the solved head alone is worth
    assert 0.84 < summary["final"] <= 1


@pytest.mark.slow
def test_three_rounds_from_a_random_head_learn_real_data(tmp_path):
    _, _, summary = run_demo(
        tmp_path, "model.head=aggregate", "data.partition={kind: iid}", "train.lr=5e-3", "method.warmup=3",
        "data.samples=600",
    )  # fmt: skip
    # Chance is 0.24, the largest class.
    assert summary["start"] < 0.45
    assert summary["final"] > summary["start"] + 0.2


def test_the_folder_holds_what_the_contract_says(demo):
    session, folder, summary = demo
    assert {f.name for f in folder.path.iterdir()} == {
        "config.yaml", "clients.json", "rounds.jsonl", "summary.json", "adapter", "checkpoints", "log.txt", ".lock",
        ".lock.held", "data.json", ".status.json", "confusion.json",
    }  # fmt: skip
    assert stored_config(folder.path) == parse_config(session.config)
    assert (folder.path / "config.yaml").read_text() == session.config_yaml
    assert folder.summary().to_dict() == json.loads(json.dumps(summary))
    reports = [record.report for record in folder.rounds()]
    assert [report.round for report in reports] == [0, 1, 2]
    assert [report.scored for report in reports] == [False, True, False]
    assert all(len(report.clients) == 5 for report in reports)
    up = sum(client.bytes_up for report in reports for client in report.clients)
    sums = 2 * 20 * 4 * (5 + 5 * 384 + 384 * 385 // 2)  # of all clients, before the first round and after the last
    assert up + sums < summary["bytes_up"] < up + 1.02 * sums
    clients = json.loads((folder.path / "clients.json").read_text())["clients"]
    assert len(clients) == 20
    assert all(sum(n > 0 for n in client["labels"].values()) == 2 for client in clients)
    assert sum(client["samples"] for client in clients) == len(sum_of_parts(session))


def sum_of_parts(session):
    return [i for examples in session.engine.data.values() for i in range(len(examples))]


def test_the_summary_reports_every_tier(demo):
    _, _, summary = demo
    for capacity, tier in zip((2, 4, 6), summary["tiers"], strict=True):
        assert tier["budget"] == {"blocks": capacity}
        assert sum(tier["blocks_trained"]) == capacity * tier["participations"]
        assert 0 < tier["saved_bytes"] < tier["measured_peak_bytes"]
        tensors = capacity * 4 * (2 * 2 * 8 * 384)  # the head is fixed
        assert tensors <= tier["bytes_up"] <= 1.02 * tensors


def test_held_out_data_is_disjoint_from_every_client(demo):
    session, _, _ = demo
    server = [session.server.validation, session.server.test, session.server.proxy]
    seen = [{tuple(tokens.tolist()) for tokens in part.tokens} for part in [*server, *session.engine.data.values()]]
    everything = [tokens for part in seen for tokens in part]
    # Different headlines can, rarely, have the same tokens; the split itself is tested on indices.
    assert len(everything) - len(set(everything)) <= 2


def logits_of(model, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    with torch.inference_mode():
        return model(**tokenizer(HEADLINES, padding=True, return_tensors="pt")).logits


def with_head(encoder, folder):
    """Put the head that is saved beside an adapter, or beside merged weights, on an encoder."""
    saved = load_file(folder / "head.safetensors")
    head = torch.nn.Linear(384, 5)
    head.load_state_dict({"weight": saved["head.weight"], "bias": saved["head.bias"]})
    return PooledClassifier(encoder, "mean", head)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The embedded files under the hub's id, as a download would leave them in the hub's cache."""
    import huggingface_hub.constants as hub

    embedded = EMBEDDED_MODELS["minilm"]
    snapshot = tmp_path / f"models--{embedded.hub_id.replace('/', '--')}" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in Path(resolve("embedded:minilm").location).iterdir():
        if file.is_file():
            shutil.copy(file, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0123abc")
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("base", ["embedded", "hub"])
def test_peft_loads_the_adapter_with_the_same_logits(demo, played_logits, base, request):
    _, folder, _ = demo
    if base == "hub":
        location, kwargs = EMBEDDED_MODELS["minilm"].hub_id, {"cache_dir": request.getfixturevalue("hub_cache")}
    else:
        location, kwargs = resolve("embedded:minilm").location, {}
    transformers_logging.set_verbosity_error()
    plain = AutoModel.from_pretrained(location, **kwargs)
    loaded = PeftModel.from_pretrained(plain, str(folder.adapter))
    result = loaded.load_adapter(str(folder.adapter), adapter_name="again")
    assert [key for key in result.missing_keys if "again" in key] == []
    assert result.unexpected_keys == []
    expected = played_logits
    found = logits_of(with_head(loaded, folder.adapter), resolve("embedded:minilm").location)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-5)
    untrained = with_head(AutoModel.from_pretrained(location, **kwargs), folder.adapter)
    assert not torch.allclose(logits_of(untrained, resolve("embedded:minilm").location), expected, atol=1e-2)


def test_evaluate_reads_back_the_reported_accuracy(demo, call, tmp_path):
    _, folder, summary = demo
    code, out, err = call(tmp_path, "evaluate", folder.path, "--json")
    assert code == 0, err
    assert json.loads(out)["test"]["accuracy"] == pytest.approx(summary["final"])


def test_predict_classifies_texts(demo, call, tmp_path):
    _, folder, _ = demo
    code, out, err = call(tmp_path, "predict", folder.path, *HEADLINES, "--json")
    assert code == 0, err
    assert [row["label"] for row in json.loads(out)] == ["politics", "sports", "tech"]


def test_export_merge_gives_the_same_logits(demo, played_logits, call, tmp_path):
    _, folder, _ = demo
    code, _, err = call(tmp_path, "export", folder.path, "--merge", "--out", tmp_path / "merged")
    assert code == 0, err
    merged = AutoModel.from_pretrained(tmp_path / "merged")
    assert merged.config.id2label == {0: "business", 1: "entertainment", 2: "politics", 3: "sports", 4: "tech"}
    found = logits_of(with_head(merged, tmp_path / "merged"), tmp_path / "merged")
    assert torch.allclose(found, played_logits, atol=1e-3)
    code, _, err = call(tmp_path, "export", folder.path, "--out", tmp_path / "merged")
    assert code == 5
    assert "exists" in err


@pytest.mark.slow
def test_two_runs_with_one_seed_give_bit_identical_adapters(demo, tmp_path):
    """The second in a process of its own, in which sets have another order."""
    _, folder, summary = demo
    words = [sys.executable, "-m", "fedhello.cli.main", "run", *THREE_ROUNDS, SOME, "run.name=demo", "--json"]
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    again = tmp_path / "runs" / "demo" / "adapter"
    for file in folder.adapter.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name
    repeated = json.loads(result.stdout)
    for key in ("start", "final", "mean_last_5", "bytes_up", "bytes_down"):
        assert repeated[key] == summary[key]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["solved", "aggregate", "local", "frozen"])
def test_every_head_policy_runs_and_evaluates(head, call, tmp_path):
    _, folder, summary = run_demo(tmp_path, f"model.head={head}", "data.samples=600")
    heads = list((folder.path / "heads").glob("*.safetensors")) if head == "local" else []
    assert bool(heads) == (head == "local")
    _, out, _ = call(tmp_path, "evaluate", folder.path, "--json")
    assert json.loads(out)["test"]["accuracy"] == pytest.approx(summary["final"])
    code, _, err = call(tmp_path, "predict", folder.path, "a text")
    if head == "local":
        assert code == 2
        assert "expected a client" in err
        known = min(int(file.stem.removeprefix("client-")) for file in heads)
        assert call(tmp_path, "predict", folder.path, "a text", "--client", known)[0] == 0
    else:
        assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["{kind: iid}", "{kind: dirichlet, alpha: 0.1}"])
def test_other_partitions_run(kind, tmp_path):
    _, _, summary = run_demo(tmp_path, f"data.partition={kind}", "data.samples=600")
    assert summary["final"] > 0.6


def test_parity_runs_with_the_published_semantics(place):
    words = ["train.rounds=3", "method.warmup=1", "train.selection=last", "parity=published"]
    session = sessions.prepare(load_config(place / "tiny.yaml", words))
    folder = RunFolder(place / "run")
    run_session(session, folder)
    assert not set(session.model.head_names) & set(session.model.snapshot(share_head=False).tensors)
    assert [record.report.scored for record in folder.rounds()] == [False, True, False]
    assert session.engine.settings.lr_schedule == "published"
    assert session.engine.settings.weight_decay == 0.01


def test_a_users_own_csv_runs(call, tmp_path):
    words = {"fruit": ["apple", "pear", "plum", "cherry"], "metal": ["iron", "copper", "zinc", "silver"]}
    lines = ["text,label,shop"]
    lines += [
        f"{word} number {i} of {kind},{kind},shop{i % 3}"
        for kind, group in words.items() for i in range(10) for word in group
    ]  # fmt: skip
    (tmp_path / "my.csv").write_text("\n".join(lines))
    arguments = [
        "run", "data.name=my.csv", "data.clients=3", "data.partition={kind: natural, column: shop}",
        "train.clients_per_round=2", "train.rounds=2", "data.proxy=4", "method.warmup=1", "train.measure_memory=false",
        "--json",
    ]  # fmt: skip
    code, out, err = call(tmp_path, *arguments)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["labels"] == ["fruit", "metal"]
    assert summary["final"] > 0.8


@pytest.mark.slow
def test_the_code_that_is_printed_and_on_the_cards_runs_offline_in_a_fresh_process(demo, played_logits, call, tmp_path):
    """The demo's base is in an installed package; of an export with its base not even that is needed."""
    _, folder, _ = demo
    code, _, err = call(tmp_path, "export", folder.path, "--base", "--out", tmp_path / "whole")
    assert code == 0, err
    session = demo[0]
    lines = [line.strip() for line in loading_lines(folder.summary(), folder, session.model.source)[2:5]]
    assert "PeftModel.from_pretrained" in lines[-1]
    card = re.compile(r"```python\n(.*?)```", re.DOTALL)
    on_cards = [
        (here, card.search((here / "README.md").read_text())[1]) for here in (folder.adapter, tmp_path / "whole")
    ]
    assert "fedhello" not in on_cards[1][1]
    script = ["import json, os, torch", f"texts = {HEADLINES!r}", "\n".join(lines), "found = []"]
    for here, code in on_cards:
        script += [f"os.chdir({str(here)!r})", code, "with torch.no_grad(): found.append(logits(texts).tolist())"]
    script += ["print(json.dumps(found))"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no-cache")}
    out = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    for found in json.loads(out.stdout.splitlines()[-1]):
        assert torch.allclose(torch.tensor(found), played_logits, atol=1e-4, rtol=1e-5)
