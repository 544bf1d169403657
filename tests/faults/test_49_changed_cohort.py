"""Resumed with clients that left, joined or, where accepted, have other data: noted. Another rank map is refused."""

import json

WORDS = ("run.name=r", "train.rounds=3", "train.measure_memory=false")


def test_other_data_are_noted_and_the_run_goes_on(broken, place, call):
    lines = (place / "texts.csv").read_text().splitlines()
    (place / "texts.csv").write_text("\n".join(lines[:-6]) + "\n")
    newest = max((place / "runs" / "r" / "checkpoints").iterdir())
    newest.unlink()
    assert call(place, "resume", "runs/r", "--quiet")[0] == 3
    code, _, err = call(place, "resume", "runs/r", "--quiet", "--changed-data")
    assert code == 0
    note = "the clients are not those that the run started with: "
    assert err.startswith(f"note: {note}")
    assert "has other data or another tier" in err
    summary = json.loads((place / "runs" / "r" / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert any(line.startswith(note) for line in summary["notes"])


def test_who_left_and_who_joined_are_named(broken, place, call):
    file = place / "runs" / "r" / "clients.json"
    found = json.loads(file.read_text())
    found["clients"][-1]["client"] = 9
    file.write_text(json.dumps(found))
    code, _, err = call(place, "resume", "runs/r", "--quiet")
    assert code == 0
    assert "client 9 left; client 3 joined" in err


def test_another_map_of_ranks_is_refused_and_said(place, call, processes):
    tiers = "clients.tiers=[{share: 1/2, rank: 1}, {share: 1/2, rank: 4}]"
    words = ["method.name=hetlora", tiers, *WORDS]
    assert processes.wait(processes.start(place, "run", "tiny.yaml", *words, dies_at="summary.json")) == -9
    file = place / "runs" / "r" / "config.yaml"
    file.write_text(file.read_text().replace("rank: 1\n", "rank: 2\n"))
    code, _, err = call(place, "resume", "runs/r", "--quiet")
    assert code == 5
    assert "clients.tiers is [{'share': 0.5, 'rank': 1}, {'share': 0.5, 'rank': 4}] there and [{" in err


def test_another_machine_is_noted(broken, place, call, monkeypatch):
    monkeypatch.setattr("fedhello.runs.progress.torch.get_num_threads", lambda: 77)
    code, _, err = call(place, "resume", "runs/r", "--quiet")
    assert code == 0
    assert "note: the run continues, but not bit for bit: threads is 1 there and 77 here" in err
