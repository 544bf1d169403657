import pytest

from fedhello.config.load import dump_config, load_config
from fedhello.config.stored import resumed_config, stored_config
from fedhello.errors import ConfigError, RunFolderError


@pytest.fixture
def stored(tmp_path):
    config = load_config(None, ["run.seed=3", "train.rounds=4"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    return tmp_path, config


def test_a_runs_configuration_is_read_back(stored, tmp_path):
    folder, config = stored
    assert stored_config(folder) == config
    assert resumed_config(folder, []) == (config, None)
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        stored_config(tmp_path / "absent")


def test_a_run_goes_on_with_overrides_that_change_no_result(stored):
    folder, _ = stored
    assert resumed_config(folder, ["run.keep=1"]).config.run.keep == 1
    stop = resumed_config(folder, ["train.stop={patience: 2}", "train.target=0.9"]).config.train
    assert (stop.stop.patience, stop.target) == (2, 0.9)
    for override in ("run.seed=4", "train.lr_head=2", "method.warmup=3"):
        with pytest.raises(ConfigError, match=r"expected overrides that do not affect the rounds"):
            resumed_config(folder, [override])
    with pytest.raises(ConfigError, match=r"train\.batch_size is 16 there and 4 here"):
        resumed_config(folder, ["train.batch_size=4"])


@pytest.mark.parametrize(
    ("word", "rounds"),
    [("train.rounds=9", 9), ("train.rounds=+3", 7), ("train.rounds='+3'", 7), (" train . rounds = +3 ", 7)],
)
def test_a_run_goes_on_with_so_many_rounds_or_so_many_more(stored, word, rounds):
    assert resumed_config(stored[0], [word]).config.train.rounds == rounds


@pytest.mark.parametrize(("word", "lr"), [("train.lr=1e-5", 1e-5), ("train.lr=5e-3", 5e-3), ("train.lr=auto", 5e-3)])
def test_another_learning_rate_is_beside_the_configuration(stored, word, lr):
    folder, config = stored
    assert resumed_config(folder, [word]) == (config, lr)


def test_the_noise_of_a_run_is_for_its_number_of_rounds(tmp_path):
    words = ["privacy.epsilon=8", "privacy.mechanism=banded", "train.clients_per_round=2", "train.rounds=4"]
    (tmp_path / "config.yaml").write_text(dump_config(load_config(None, words)))
    said = r"expected train\.rounds=4, since the noise .* so many rounds spend privacy\.epsilon=8; found 6"
    with pytest.raises(ConfigError, match=said):
        resumed_config(tmp_path, ["train.rounds=+2"])
    assert resumed_config(tmp_path, ["train.lr=1e-3"]).lr == 1e-3


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("train: 3", "^train: expected keys below it"),
        ("model: x", "^model: expected keys below it"),
        ("[1]", "hold sections"),
    ],
)
def test_a_damaged_configuration_is_refused(section, said, tmp_path):
    (tmp_path / "config.yaml").write_text(section)
    with pytest.raises(ConfigError, match=said):
        stored_config(tmp_path)


def test_an_empty_section_of_a_runs_configuration_has_the_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text("train:\nmodel:\n")
    assert stored_config(tmp_path).train.lr == 2e-3
