import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refusal

from fedhello.config.load import dump_config, load_config, parse_config
from fedhello.config.schema import Config
from fedhello.errors import ConfigError
from fedhello.methods import METHODS


def test_an_empty_file_is_all_defaults(file):
    assert load_config(file("")) == load_config(file("# nothing\n")) == load_config()


def test_a_method_gets_its_options_with_their_defaults():
    options = load_config().method.options
    assert (options["pattern"], options["warmup"], options["persist"]) == ("bottleneck", 10, True)
    assert load_config(None, ["method.name=gd-hla"]).method.options == {
        "pattern": "bottleneck", "weighting": "samples", "freeze_from_below": None,
    }  # fmt: skip


def test_a_file_sets_what_it_names_and_leaves_the_rest(file):
    config = load_config(file("train:\n  rounds: 3\nmethod: {name: fim-hla, refresh: 2}\n"))
    assert config.train.rounds == 3
    assert config.method.options["refresh"] == 2
    assert config.train.batch_size == load_config().train.batch_size


def test_overrides_beat_the_file_and_later_ones_earlier_ones(file):
    path = file("train: {rounds: 3, epochs: 2}\n")
    config = load_config(path, ["train.rounds=4", "train.rounds=5", "run.name=mine"])
    assert (config.train.rounds, config.train.epochs, config.run.name) == (5, 2, "mine")


def test_an_empty_section_is_all_defaults(file):
    assert load_config(file("train:\nmethod:\n")) == load_config()


@pytest.mark.parametrize("raw", [{1: 2}, {"train": {1: 2}}, {"method": {1: 3}}])
def test_keys_that_are_no_text_are_refused(raw):
    with pytest.raises(ConfigError):
        parse_config(raw)


@pytest.mark.parametrize("name", ["5e4", "12", "true", "null", "2024-01-01"])
def test_texts_that_look_like_numbers_survive_a_round_trip(name, tmp_path):
    config = parse_config({"run": {"name": name}})
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "c.yaml") == config


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


def test_an_unknown_method_is_named_with_the_nearest_known_one():
    assert refusal("method.name=fim-hal").endswith("found 'fim-hal'. Did you mean fim-hla?")
    assert refusal("method.name=zzz").endswith("found 'zzz'.")


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
