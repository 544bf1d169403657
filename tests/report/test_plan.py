import json
from dataclasses import fields, replace

import pytest
from plans import KEEP, PLAN

import fedhello as fh
from fedhello.errors import ConfigError
from fedhello.report.plan_tiers import TierPlan

WRITTEN = {
    "format": 1, "method": "fed-hello", "model": "some-model", "blocks": 4, "rounds": 5, "clients_per_round": 6,
    "download_bytes": 7000,
    "tiers": [
        {
            "tier": 0, "clients": 1, "budget": {"memory": 20_000_000, "seconds": 2.0, "speed": 3e9},
            "takes_part": True, "blocks": [1, 2], "frequency": [0.0, 0.25, 1.0, 0.5],
            "needs": {
                "saved_bytes": 8, "peak_bytes": 9, "memory_bytes": 10_000_000, "flops": 11, "upload_bytes": 12_000,
                "seconds": 1.5, "relative_flops": 0.625,
            },
            "fraction": {"memory": 0.5, "seconds": 0.75},
            "example": {
                "blocks": [1, 3], "policies": ["keep", "keep", "recompute", "compress"], "ranks": [4] * 4,
                "picture": "·●◌◒  (· not reached, ● trained, ◌ frozen, recomputed, ◒ trained, compressed)",
                "reasons": ["the reason"],
            },
            "front": [
                {
                    "blocks": 2, "policies": list(KEEP), "memory_bytes": 13_000_000, "flops": 14,
                    "relative_flops": 0.875, "upload_bytes": 15,
                },
                {
                    "blocks": 2, "policies": list(KEEP), "memory_bytes": 16_000_000, "flops": 7,
                    "relative_flops": 0.5, "upload_bytes": 18,
                },
            ],
        },
        {
            "tier": 1, "clients": 2, "budget": {"blocks": 2}, "takes_part": False, "blocks": None, "frequency": None,
            "needs": None, "fraction": {}, "example": None, "front": [],
        },
    ],
    "labels": ["a", "b"], "clients": [{"client": 0, "tier": 0, "samples": 19, "labels": [19, 0]}],
    "server": {"validation": 20, "test": 21, "proxy": 22},
    "head": {"chosen": "full", "bytes": {"full": 23, "means": 24}}, "notes": ["one [thing]"],
}  # fmt: skip
SHOWN = """\
fed-hello on some-model, 4 blocks: 5 rounds of 6 clients; each downloads 7 kB per round
 tier clients budget trains memory at most time upload how often each block (round 0)
 0 1 20 MB, 2 s at 3 GFLOP/s 1–2 10 MB (50%) 62%, 1.5 s (75%) 12 kB .00 .25 1.00 .50
 1 2 2 blocks left out
time: computation of a round / that of training all blocks without recomputation
tier 0, for example ·●◌◒ (· not reached, ● trained, ◌ frozen, recomputed, ◒ trained, compressed)
 – the reason
 what other budgets would afford (all points: --json, --picture):
 blocks trained least memory at time least time at memory
 2 13 MB 88% 50% 16 MB
 client tier samples a b
 0 0 19 19 ·
the server holds 20 validation, 21 test and 22 proxy samples
for the head every client sends sums once; bytes by model.moments: full 23 B (chosen), means 24 B
note: one [thing]
"""


def test_every_part_of_a_plan_has_its_name_in_the_json():
    assert PLAN.to_dict() == WRITTEN
    assert len(WRITTEN | {"noise": []}) == len(fields(PLAN)) + 1, "a new field needs its place in the JSON, and here"
    assert len(WRITTEN["tiers"][0]) == len(fields(TierPlan))


def test_the_table_says_the_same():
    assert [line.split() for line in str(PLAN).splitlines()] == [line.split() for line in SHOWN.splitlines()]


def test_a_plan_is_plain_json(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    found = fh.plan(fh.prepare("tiny.yaml")).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert found.keys() == WRITTEN.keys()
    assert found["tiers"][0].keys() == WRITTEN["tiers"][0].keys()


def test_a_page_and_a_picture_are_written_or_nothing_is(tmp_path):
    PLAN.write_page(tmp_path / "plan.html")
    assert (tmp_path / "plan.html").read_text().startswith("<!doctype html>")
    PLAN.write_picture(tmp_path / "plan.svg")
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")
    with pytest.raises(ConfigError, match="all budgets count blocks"):
        replace(PLAN, tiers=PLAN.tiers[1:]).write_picture(tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_a_plan_is_plain_text_in_a_notebook_too(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter's kernels do
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    text = str(fh.plan(fh.prepare("tiny.yaml")))
    assert "tier 1, for example ●●●" in text
    assert "\x1b" not in text
