from fedhello.config.load import load_config
from fedhello.session import StopSettings
from fedhello.setup.run_settings import run_settings


def test_settings_are_those_of_the_configuration():
    words = ["train.rounds=7", "train.retries=2", "train.selection=last", "train.stop={patience: 3, min_delta: 0.1}"]
    found = run_settings(load_config(None, [*words, "train.target=0.9", "run.seed=5", "run.keep=4"]), 2, 1)
    assert (found.rounds, found.retries, found.selects, found.seed, found.keep) == (7, 2, False, 5, 4)
    assert (found.evaluate_every, found.threads, found.is_remote) == (2, 1, False)
    assert found.stop == StopSettings(patience=3, min_delta=0.1) and found.target == 0.9
    assert run_settings(load_config(None, []), 1, None).stop is None
