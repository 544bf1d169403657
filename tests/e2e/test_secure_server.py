"""Secure sums on a real SuperLink: ten SuperNode processes, of which three are killed; and differential privacy."""

import json
import shutil
from itertools import pairwise

import pytest
from machines import CONFIG, Machines
from safetensors.torch import load_file

pytest.importorskip("flwr", reason="needs the extra flower")

TEN = (
    CONFIG.replace("clients: 3,", "clients: 10,")
    .replace("clients_per_round: 3", "clients_per_round: 10")
    .replace("rounds: 2", "rounds: 3")
    + "privacy: {secure: true, cohorts: 3}\n"
)


@pytest.mark.slow
def test_ten_clients_mask_and_three_may_be_killed(workplace, tmp_path, call):
    """Until they are killed the run is that of one process; after that it goes on with seven of ten."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    there = Machines(tmp_path / "place", TEN)
    try:
        there.server()
        there.wait_for(lambda: "listening" in there.said("server"), 200, "the server")
        for k in range(10):
            there.client(k)
        there.wait_for(lambda: len(there.rounds()) >= 1, 600, "the first round")
        for k in (2, 5, 7):
            there.kill(f"client-{k}")
        assert there.end("server", 900) == 0, there.all_said()
        summary = json.loads((there.run / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 3)
        first, *_, last = [entry for entry in there.rounds() if not entry["failed"]]
        assert len(first["clients"]) == 10 and all(one["metrics"] == {} for one in first["clients"])
        assert {one["client"] for one in last["clients"]} >= {0, 1, 3, 4, 6, 8, 9}
        assert len(last["clients"]) < 10

        code, _, err = call(there.folder, "run", "net.yaml", "run.name=here", "train.rounds=1", "privacy.secure=false")
        assert code == 0, err
        ours = json.loads((there.folder / "runs" / "here" / "rounds.jsonl").read_text().splitlines()[0])
        assert first["train_loss"] == pytest.approx(ours["train_loss"], rel=1e-3)
        assert first["test"]["accuracy"] == pytest.approx(ours["test"]["accuracy"], abs=0.05)
        assert load_file(there.run / "adapter" / "adapter_model.safetensors")
    finally:
        there.close()


PRIVATE = (
    CONFIG.replace("{name: rgd-hla}", "{name: fim-hla, scores: clients}")
    .replace("lora: {rank: 4, alpha: 4}", "lora: {rank: 4, alpha: 4}, head: solved, train_head: false")
    .replace("clients_per_round: 3", "clients_per_round: 3, sampling: poisson")
    + "privacy: {secure: true, epsilon: 8}\n"
)


@pytest.mark.slow
def test_three_clients_train_under_differential_privacy_and_the_ledger_says_what_was_released(workplace, tmp_path):
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    there = Machines(tmp_path / "place", PRIVATE)
    try:
        there.server("--local", 3, "--json")
        assert there.end("server", 600) == 0, there.all_said()
        summary = json.loads((there.run / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 2)
        assert 7.9 < summary["privacy"]["epsilon"] <= 8.0
        assert [one["name"] for one in summary["privacy"]["releases"]] == ["head statistics", "Fisher scores", "rounds"]
        assert not any(flag.startswith("the secure sum failed") for flag in summary["flags"])
        assert all(len(entry["clients"]) == 3 and not entry["rejections"] for entry in there.rounds())
    finally:
        there.close()


BANDED = "epsilon: 8, mechanism: banded"
SIX = PRIVATE.replace("clients: 3,", "clients: 6,").replace("rounds: 2", "rounds: 4")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "most", "times"), [({}, 6, 4), ({"sampling: poisson": "sampling: fixed", "epsilon: 8": BANDED}, 3, 2)]
)
def test_of_six_clients_only_those_of_a_round_are_in_its_sum(workplace, tmp_path, changes, most, times):
    """Drawn by the operating system with probability a half, or taking turns."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    config = SIX
    for old, new in changes.items():
        config = config.replace(old, new)
    there = Machines(tmp_path / "place", config)
    try:
        there.server("--local", 6, "--json")
        assert there.end("server", 900) == 0, there.all_said()
        summary = json.loads((there.run / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 4)
        assert 7.9 < summary["privacy"]["epsilon"] <= 8.0
        released = {one["name"]: (one["rate"], one["times"]) for one in summary["privacy"]["releases"]}
        assert released["rounds"] == (1.0 if changes else 0.5, times)
        rounds = [{one["client"] for one in entry["clients"]} for entry in there.rounds()]
        assert all(len(came) <= most for came in rounds)
        if changes:
            assert all(len(a) == 3 and not a & b for a, b in pairwise(rounds))
        assert not any(entry["rejections"] for entry in there.rounds())
    finally:
        there.close()


SAMPLES = (
    CONFIG.replace("{name: rgd-hla}", "{name: full}")
    .replace("lora: {rank: 4, alpha: 4}", "lora: {rank: 4, alpha: 4}, head: solved, train_head: false")
    .replace("lr: 1e-2", "lr: 1e-2, batch_size: 4, loss: cross_entropy")
    .replace("share: 1/3, blocks: 1", "share: 1/3, blocks: 3")
    .replace("share: 1/3, blocks: 2", "share: 1/3, blocks: 3")
    + "privacy: {secure: true, epsilon: 8, unit: sample}\n"
)


@pytest.mark.slow
def test_three_clients_train_by_steps_on_single_samples_and_count_them_themselves(workplace, tmp_path):
    """An owner who allows less takes no part; the others' files agree with the server's ledger."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    there = Machines(tmp_path / "place", SAMPLES)
    try:
        there.server()
        there.wait_for(lambda: "listening" in there.said("server"), 200, "the server")
        for k in range(3):
            there.client(k, "--epsilon", 8, "--ledger", f"spent-{k}.json")
        there.client(0, "--epsilon", 4, name="careful")
        assert there.end("server", 600) == 0, there.all_said()
        summary = json.loads((there.run / "summary.json").read_text())
        assert (summary["status"], summary["rounds"]) == ("finished", 2)
        assert 7.9 < summary["privacy"]["epsilon"] <= 8.0 and summary["privacy"]["unit"] == "sample"
        for k in range(3):
            own = json.loads((there.folder / f"spent-{k}.json").read_text())
            served = [one for one in summary["privacy"]["releases"] if one.get("client", k) == k]
            assert [one | {"client": None} for one in own["releases"]] == [
                one | {"client": None, "noise": pytest.approx(one["noise"], rel=1e-4)} for one in served
            ]
            assert own["delta"] == 1e-4 and own["epsilon"] < summary["privacy"]["epsilon"]  # the owner's δ is larger
        assert "ε of at most 4" in there.said("careful")
        assert all(len(entry["clients"]) == 3 and not entry["rejections"] for entry in there.rounds())
        assert load_file(there.run / "adapter" / "adapter_model.safetensors")
    finally:
        there.close()
