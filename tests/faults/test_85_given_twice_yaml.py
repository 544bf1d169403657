"""Case 85: a section or a key given twice in a configuration, a client's consent; an open quote."""

import pytest
from refused import refusal

from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.network.consent import read_consent

TWICE = {
    "a section": (
        "data: {name: mine.csv}\ntrain: {rounds: 2}\ndata: {partition: {kind: iid}}\n",
        "'data' in lines 1 and 3",
    ),
    "in one line": ("train: {rounds: 1, epochs: 2, rounds: 1}\n", "'rounds' in line 1 twice"),
    "with quotes": ("train: {rounds: 1}\n'train': {epochs: 2}\n", "'train' in lines 1 and 2"),
    "deep": ('model:\n  lora:\n    rank: 1\n    "rank": 3\n', "'rank' in lines 3 and 4"),
    "in a list": ("clients:\n  tiers:\n  - share: 1\n    blocks: 2\n    share: 1\n", "'share' in lines 3 and 5"),
    "as JSON": ('{"train": {"rounds": 3,\n "rounds": 4}}', "'rounds' in lines 1 and 2"),
    "empty": ("train:\nrun:\ntrain:\n  rounds: 3\n", "'train' in lines 1 and 3"),
    "a number": ("a: {1: x, '1': y}\n", "'1' in line 1 twice"),
    "merged twice": ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "'<<' in lines 3 and 4"),
    "by two merged": ("a: &a {x: 1}\nb: &b {x: 2}\nc: {<<: [*a, *b]}\n", "'x' in lines 1 and 2"),
    "below an anchor": ("a: &a\n  x: 1\n  x: 2\nb: *a\n", "'x' in lines 2 and 3"),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_given_twice_is_named_with_both_lines(case, tmp_path):
    text, both = TWICE[case]
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert refusal(path=path).startswith(f"expected each key once in a section of {path}; found {both}. ")


def test_a_merged_key_may_be_replaced_and_an_alias_is_a_copy(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("clients:\n  tiers:\n  - &a {share: 1/2, blocks: 2}\n  - {<<: *a, blocks: 4}\n")
    assert [tier.blocks for tier in load_config(path).clients.tiers] == [2, 4]
    path.write_text("model: {lora: &one {rank: 4}}\ntrain: {server: {<<: &two {tau: 0.5}}}\n")
    config = load_config(path, ["model.lora.rank=2"])
    assert (config.model.lora.rank, config.train.server.tau) == (2, 0.5)


def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text('train: {rounds: 2}\nrun:\n  name: "abc\n  out: x\n')
    assert refusal(path=path) == f"expected valid YAML in {path}; a quote that opens in line 3 is not closed. Close it."


def test_a_consent_with_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "consent.yaml"
    path.write_text("epochs: 2\nbudget: {blocks: 1}\nepochs: 20\n")
    with pytest.raises(ConfigError, match=r"found 'epochs' in lines 1 and 3\."):
        read_consent(path)
    path.write_text("budget:\nepochs: 010\nlabels: [1, on, 007]\ncolumns: {label: 1}\n")
    found = read_consent(path, {"budget": {"blocks": 3}})
    assert (found.epochs, found.labels, found.columns) == (10, ("1", "on", "007"), {"label": "1"})
    assert found.budget.blocks == 3


def test_an_override_with_a_key_twice_is_refused():
    assert "'rounds' in line 1 twice" in refusal("train={rounds: 4, rounds: 4}")
