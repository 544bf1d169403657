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
    assert stored_config(folder) == config == resumed_config(folder, [])
    with pytest.raises(RunFolderError, match="expected the folder of a run"):
        stored_config(tmp_path / "absent")


def test_a_run_goes_on_with_overrides_that_change_no_result(stored):
    folder, _ = stored
    assert resumed_config(folder, ["run.keep=1"]).run.keep == 1
    for override in ("run.seed=4", "train.lr=1e-5", "method.warmup=3"):
        with pytest.raises(ConfigError, match=r"expected overrides that do not affect the rounds"):
            resumed_config(folder, [override])
    with pytest.raises(ConfigError, match=r"train\.lr is .* there and 1e-05 here"):
        resumed_config(folder, ["train.lr=1e-5"])


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
