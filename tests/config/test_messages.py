import shlex

import pytest
from refused import refusal

from fedhello.config.load import load_config
from fedhello.config.read import load_config as load_any
from fedhello.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("trian.rounds=5", "trian", "train"),
        ("train.round=5", "train.round", "rounds"),
        ("model.lora.rnak=4", "model.lora.rnak", "rank"),
        ("data.partition={kind: pathological, minimun: 2}", "data.partition.minimun", "minimum"),
        ("data.partition={kind: dirichlet, alhpa: 2}", "data.partition.alhpa", "alpha"),
        ("data.partition={kind: natural, colunm: user}", "data.partition.colunm", "column"),
        ("clients.tiers=[{share: 1, block: 2}]", "clients.tiers.0.block", "blocks"),
        ("clients.tiers=[{share: 0.5, blocks: 2}, {share: 0.5, blocks: 2, sare: 1}]", "clients.tiers.1.sare", "share"),
        ("method.warmpu=3", "method (fed-hello).warmpu", "warmup"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(override, key, nearest):
    assert refusal(override).startswith(f"unknown key {key}. Did you mean {nearest}? Valid keys: ")


def test_an_unknown_key_like_no_other_gets_the_list_alone():
    assert refusal("data.partition={kind: dirichlet, zzz: 2}") == (
        "unknown key data.partition.zzz. Valid keys: kind, alpha, minimum."
    )


@pytest.mark.parametrize(
    ("override", "key"),
    [("method=rgd-hla", "method.name"), ("data=my.csv", "data.name"), ("data.partition=iid", "data.partition.kind")],
)
def test_a_value_for_a_section_gets_the_key_that_was_meant(override, key):
    assert f"expected keys below it, such as {key}; found {override.split('=')[1]!r}" in refusal(override)


def test_a_key_of_another_kind_of_partition_is_unknown():
    assert refusal("data.partition={kind: iid, alpha: 2}").startswith("unknown key data.partition.alpha")


def test_an_option_of_another_method_is_unknown():
    sentence = refusal("method.name=gd-hla", "method.warmup=3")
    assert sentence == "unknown key method (gd-hla).warmup. Valid keys: pattern, weighting, freeze_from_below."


def test_what_was_found_is_shown():
    assert "(found 'many')" in refusal("train.rounds=many")


def test_further_problems_are_counted():
    assert refusal("train.rounds=0", "train.epochs=0", "run.seed=-1").endswith("(2 more problems)")


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("rounds=3", "unknown key rounds. Did you mean train.rounds? "),
        ("round=3", "unknown key round. Did you mean train.rounds? "),
        ("train.seed=3", "unknown key train.seed. Did you mean run.seed? "),
        ("data.rank=3", "unknown key data.rank. Did you mean model.lora.rank? "),
        ("model.warmup=3", "unknown key model.warmup. Did you mean method.warmup? "),
        ("train.alpha=3", "unknown key train.alpha. Did you mean model.lora.alpha or data.partition.alpha? "),
        ("train.ROUNDS=3", "unknown key train.ROUNDS. Did you mean rounds? "),
        ("early_stopping=3", "unknown key early_stopping. Did you mean train.stop? Valid keys: model, data, "),
        ("train.early_stopping=3", "unknown key train.early_stopping. Did you mean train.stop? Valid keys: rounds, "),
        ("train.patience=3", "unknown key train.patience. Did you mean train.stop.patience? "),
        ("train.learning-rate=3", "unknown key train.learning-rate. Did you mean train.lr? "),
        ("aggregator=mean", "unknown key aggregator. Did you mean method.name or defence.rule? "),
        ("train.over_section=2", "unknown key train.over_section. Did you mean over_selection? "),
        ("train.regularisation=2", "unknown key train.regularisation. Valid keys: rounds, "),
        ("data.translation=2", "unknown key data.translation. Valid keys: name, "),
        ("run.resumption=2", "unknown key run.resumption. Valid keys: seed, "),
        ("data.partition={kind: iid, alpha: 3}", "unknown key data.partition.alpha. Valid keys: kind."),
    ],
)
def test_a_key_is_suggested_where_one_is_near_or_called_so_elsewhere(override, hint):
    assert refusal(override).startswith(hint)


def test_a_dotted_key_in_a_file_is_written_anew(file):
    path = file("model.lora.rank: 3\n")
    sentence = refusal(path=path)
    assert sentence.startswith(
        "unknown key model.lora.rank. In a file, write model: {lora: {rank: …}}. Valid keys: model, "
    )
    assert sentence.endswith(f" It is in line 1 of {path}.")


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("train.rounds=1_000", "train.rounds=1000"),
        ("train.rounds=1e2", "train.rounds=100"),
        ("train.rounds=3.0", "train.rounds=3"),
        ("train.rounds=many", "train.rounds=20"),
        ("train.rounds=0x10", "train.rounds=16"),
        ("train.rounds=0o17", "train.rounds=15"),
        ("train.rounds=0b11", "train.rounds=3"),
        ("train.rounds=1:30", "train.rounds=90"),
        ("train.rounds='3'", "train.rounds=3"),
        ("data.deduplicate=1", "data.deduplicate=true"),
        ("data.label=null", "data.label=label"),
        ("run.track=jsonl", "'run.track=[jsonl]'"),
        ("method.warmup=ten", "method.warmup=10"),
        ("data.test=1/0", "data.test=0.2"),
        ("data.test=1", "data.test=0.2"),
        ("data.validation=100%", "data.validation=0.1"),
        ("data.public=1.5", "data.public=0"),
        ("data.public=-1", "data.public=0"),
        ("clients.dropout=1/0", "clients.dropout=0.0"),
        ("train.lr=0x10", "train.lr=16"),
        ("train.lr=1:30", "train.lr=90"),
        ("train.lr=fast", "train.lr=auto"),
        ("train.lr=.inf", "train.lr=auto"),
        ("model.shrinkage=some", "model.shrinkage=auto"),
        ("model.refresh=some", "model.refresh=never"),
    ],
)
def test_a_wrong_type_is_answered_with_an_override_that_is_right(override, right):
    assert refusal(override).endswith(f"). Write, for example: {right}")
    load_config(None, shlex.split(right))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "model.lora.targets=query",
            "model.lora.targets: input should be 'attention-qv', 'attention' or 'all-linear', or a valid list "
            "(found 'query'). Write, for example: 'model.lora.targets=[query]'",
        ),
        ("privacy.clip=big", "privacy.clip: input should be 'auto', or a valid number (found 'big')"),
        ("privacy.clip=-1", "privacy.clip: input should be 'auto', or greater than 0 (found -1)"),
        ("run.name=a/b", "run.name: expected a name without / or \\ that does not begin with a dot (found 'a/b')"),
        ("run.name=.a", "run.name: expected a name without / or \\ that does not begin with a dot (found '.a')"),
    ],
)
def test_everything_that_a_key_accepts_is_said_as_one_problem_in_words(override, sentence):
    assert refusal(override) == sentence


@pytest.mark.parametrize("source", [{"clie[ts": {"tiers": []}}, {"train": {"ro[unds]": 3}}])
def test_a_key_with_a_bracket_is_an_unknown_key(source):
    with pytest.raises(ConfigError, match=r"unknown key (clie\[ts|train\.ro\[unds\])\..* Valid keys: "):
        load_any(source)
