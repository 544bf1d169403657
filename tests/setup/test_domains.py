"""Accuracy in each domain of data that is split along a column."""

import contextlib
import json

import pytest
from safetensors.torch import load_file

from fedhello.config.stored import stored_config
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import prepare

DOMAINS = "data={name: domains.csv, max_length: 16, clients: 4, proxy: 4, partition: {kind: natural, column: shop}}"


@pytest.fixture(scope="module")
def place(workplace):
    """The texts, two thirds of them from one shop."""
    header, *rows = (workplace / "texts.csv").read_text().splitlines()
    shops = ["north" if i % 3 else "south" for i in range(len(rows))]
    lines = [header + ",shop", *(f"{row},{shop}" for row, shop in zip(rows, shops, strict=True))]
    (workplace / "domains.csv").write_text("\n".join(lines) + "\n")
    return workplace


LAST = "train.selection=last"
"""So that the adapter is a trained one, be it better or not."""


@pytest.mark.parametrize("method", ["rgd-hla", "local-only"])
def test_the_domains_accuracies_make_up_the_whole(method, place, call):
    name = f"domains-{method}"
    code, out, err = call(place, "run", "tiny.yaml", DOMAINS, f"method.name={method}", f"run.name={name}", LAST)
    assert (code, err) == (0, "")
    summary = json.loads((place / "runs" / name / "summary.json").read_text())
    assert list(summary["domains"]) == ["north", "south"]
    assert f"in north {summary['domains']['north']:.3f}, south {summary['domains']['south']:.3f}" in out
    with contextlib.chdir(place):
        domains = prepare(stored_config(RunFolder(place / "runs" / name).path)).server.domains
    sizes = {domain: len(samples) for domain, samples in domains.items()}
    assert min(sizes.values()) > 0
    mean = sum(summary["domains"][domain] * size for domain, size in sizes.items()) / sum(sizes.values())
    # Of 8 samples, one that lies on the border may fall on either side of it in another batch.
    assert mean == pytest.approx(summary["final"], abs=1 / 8 + 1e-6)
    adapter = load_file(place / "runs" / name / "adapter" / "adapter_model.safetensors")
    untrained = not any(value.any() for key, value in adapter.items() if "lora_B" in key)
    assert untrained == (method == "local-only"), "scoring the clients' models leaves none of them in the adapter"


@pytest.mark.parametrize(("header", "expected"), [("shop", ["east", "west"]), ("elsewhere", [])])
def test_the_domains_of_a_given_test_file(header, expected, place, call):
    rows = [
        f"a new {word},{kind},{shop}" for word, kind, shop in (("pear", "fruit", "east"), ("iron", "metal", "west"))
    ]
    (place / "test.csv").write_text("\n".join([f"text,label,{header}", *rows]) + "\n")
    words = [DOMAINS, "data.test=test.csv", "method.name=rgd-hla", f"run.name=given-{header}"]
    code, _, err = call(place, "run", "tiny.yaml", *words)
    assert (code, err) == (0, "")
    assert list(json.loads((place / "runs" / f"given-{header}" / "summary.json").read_text())["domains"]) == expected


def test_without_a_column_or_with_personal_heads_there_are_none(place, call):
    for name, words in (("plain", []), ("personal", [DOMAINS, "model.head=local"])):
        code, _, err = call(place, "run", "tiny.yaml", *words, "method.name=rgd-hla", f"run.name={name}")
        assert (code, err) == (0, "")
        assert json.loads((place / "runs" / name / "summary.json").read_text())["domains"] == {}


def test_a_comparison_shows_them(place, call):
    words = ("compare", "tiny.yaml", DOMAINS, "--methods", "rgd-hla,straggler", "--seeds", "0,1", "--out", "domains",
             "--no-baselines")  # fmt: skip
    code, out, err = call(place, *words)
    assert (code, err) == (0, "")
    assert "last test accuracy in each domain" in out
    described = json.loads((place / "domains" / "comparison.json").read_text())
    summaries = [
        json.loads((place / "domains" / "runs" / f"rgd-hla-seed{s}" / "summary.json").read_text()) for s in (0, 1)
    ]
    found = described["methods"][0]["domains"]["south"]["mean"]
    assert found == pytest.approx(sum(summary["domains"]["south"] for summary in summaries) / 2)
