"""Models with other weights and factors than the default's, from a configuration to a run."""

import json

import pytest

PARTS = "clients.tiers=[{share: 1/2, blocks: 1, rank: 2}, {share: 1/2, blocks: 3, rank: 4}]"


@pytest.mark.parametrize(
    "options",
    [
        ("model.lora.dora=true", "method.name=rgd-hla"),
        ("model.lora.dora=true", "method.name=fedra", "model.lora.targets=all-linear"),
        ("model.lora.rslora=true", "method.name=flora", PARTS),
        ("model.dtype=bfloat16", "model.lora.targets=attention"),
    ],
    ids=["dora", "dora, sub-models", "rslora, merged", "bfloat16"],
)
def test_a_run_ends_with_what_it_exports(workplace, call, tmp_path, options):
    code, _, err = call(workplace, "run", "tiny.yaml", *options, f"run.out={tmp_path}", "run.name=it")
    assert code == 0, err
    code, out, _ = call(workplace, "evaluate", tmp_path / "it", "--json")
    assert code == 0
    again = json.loads(out)["test"]
    assert again["accuracy"] == pytest.approx(json.loads((tmp_path / "it" / "summary.json").read_text())["final"])
    for words in (("--out", tmp_path / "adapter"), ("--out", tmp_path / "whole", "--merge")):
        code, _, err = call(workplace, "export", tmp_path / "it", *words)
        assert code == 0, err
    if "model.lora.dora=true" in options:
        rounds = [json.loads(line) for line in (tmp_path / "it" / "rounds.jsonl").read_text().splitlines()]
        assert not any("predicted" in key for client in rounds[0]["clients"] for key in client)
