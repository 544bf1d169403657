import pytest
from refused import refusal

from fedhello.aggregation.server import ServerStep
from fedhello.config.load import load_config, parse_config
from fedhello.errors import ConfigError


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


@pytest.mark.parametrize("override", ["train.rounds=true", "train.rounds=1.5", "train.lr=.inf", "train.lr=.nan"])
def test_numbers_are_what_they_say(override):
    with pytest.raises(ConfigError, match=r"train\.(rounds: input should be|lr: expected auto)"):
        load_config(None, [override])


@pytest.mark.parametrize("name", ["a/../../b", "../b", ".hidden", "a/b", ""])
def test_a_run_cannot_be_named_out_of_its_folder(name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        parse_config({"run": {"name": name}})


def test_an_empty_list_of_targets_is_refused():
    with pytest.raises(ConfigError, match=r"^model\.lora\.targets: "):
        load_config(None, ["model.lora.targets=[]"])


def test_three_thirds_make_a_whole(file):
    config = load_config(file("clients:\n  tiers:\n" + "    - {share: 1/3, blocks: 2}\n" * 3))
    assert [tier.share for tier in config.clients.tiers] == [1 / 3] * 3


def test_a_configuration_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        load_config().train.rounds = 3


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
        ("run.name=[a]", "run.name"),
        ("model.head=shared", "model.head"),
        ("parity=almost", "parity"),
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


def test_what_tiers_need_and_allow():
    assert "a tier needs blocks, rank, memory, upload or seconds" in refusal("clients.tiers=[{share: 1}]")
    assert "needs seconds beside it" in refusal("clients.tiers=[{share: 1, blocks: 1, speed: 1GFLOP/s}]")
    assert refusal("clients.tiers=[{share: 1, seconds: -1}]").startswith("clients.tiers.0.seconds: ")
    assert "train.measure_memory: true" in refusal(
        "clients.tiers=[{share: 1, memory: 1GB}]", "train.measure_memory=false"
    )


@pytest.mark.parametrize("shares", [("0.5", "0.4"), ("0.5", "0.6"), ("1/3", "1/3")])
def test_shares_must_sum_to_one(shares):
    tiers = ", ".join(f"{{share: {share}, blocks: 1}}" for share in shares)
    assert "the shares of the tiers must sum to 1, they sum to" in refusal(f"clients.tiers=[{tiers}]")


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
    assert "must leave data to train on" in refusal("data.validation=0.5", f"data.test={test}")


def test_a_rank_above_the_adapters_is_refused():
    assert "clients.tiers.0.rank must be at most model.lora.rank, 8; found 9" in refusal(
        "method={name: rbla}", "clients.tiers=[{share: 1, rank: 9}]"
    )


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
        (["data.text=[a, b, c]"], "data.text: expected a column, or a list of two"),
        (
            ["data.test=1.5"],
            "data.test: expected a share above 0 and below 1, or the name of a file or a split (found 1.5)",
        ),
        (["data.test=''"], "data.test: expected a share"),
        (["data.held_out_samples=5"], "held_out_samples needs validation or test to name"),
        (["data.public=-1"], "data.public: expected a number of samples, or a data set as data.name (found -1)"),
        (["data.on_bad_image=warn"], "data.on_bad_image"),
        (["data.partition={kind: files, column: x}"], "unknown key data.partition.column"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(overrides, complaint):
    assert complaint in refusal(*overrides)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("{name: avgm}", ServerStep("avgm", 1.0)),
        ("{name: adam}", ServerStep("adam", 0.01)),
        ("{name: adagrad, lr: 0.1, beta1: 0.0, tau: 0.01}", ServerStep("adagrad", 0.1, 0.0, tau=0.01)),
    ],
)
def test_the_servers_rate_follows_its_optimiser_where_none_is_given(server, expected):
    assert load_config(None, [f"train.server={server}"]).train.server.step == expected


@pytest.mark.parametrize(
    "override",
    [
        "train.proximal=-1", "train.distillation_temperature=0", "train.lr_depth=0", "train.lr_depth=1.1",
        "train.lr_head=0", "train.server.beta1=1", "train.server.tau=0", "train.server.name=sgd", "train.loss=focal",
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(override):
    assert override.split("=")[0] in refusal(override)
