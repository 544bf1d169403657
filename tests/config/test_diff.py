from fedhello.config.diff import differing, flatten, irrelevant, is_below
from fedhello.config.load import IRRELEVANT, load_config


def test_keys_that_differ_come_with_the_value_of_each_configuration():
    one, other = load_config(None, ["train.rounds=3"]), load_config(None, ["data.partition={kind: dirichlet}"])
    found = differing([one, one, other])
    assert found["train.rounds"] == [3, 3, 20]
    assert found["data.partition.kind"] == ["pathological", "pathological", "dirichlet"]
    assert found["data.partition.classes_per_client"] == [2, 2, None], "what one lacks is None"
    assert found["data.partition.alpha"][:2] == [None, None]
    assert all(key.startswith(("train.rounds", "data.partition.")) for key in found)


def test_the_seed_and_what_changes_no_result_may_differ():
    words = ["run.seed=5", "run.name=mine", "run.out=elsewhere", "run.keep=1"]
    assert differing([load_config(), load_config(None, words)]) == {}
    assert differing([load_config(), load_config(None, words)], IRRELEVANT) == {"run.seed": [0, 5]}


def test_how_many_clients_train_at_a_time_changes_a_result_where_they_share_passes():
    assert "run.workers" in irrelevant(load_config())
    assert "run.workers" not in irrelevant(load_config(None, ["run.engine=batched"]))


def test_only_whole_parts_of_a_key_lie_below_a_section():
    assert is_below("train.lr", ["train"]) and is_below("train", ["train"])
    assert not is_below("training.lr", ["train"]) and not is_below("train", ["train.lr"])


def test_lists_and_mappings_are_flattened_and_everything_else_stays():
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": "text"}, ".") == {"a.b.0": 1, "a.b.1.c": None, "d": "text"}
    assert flatten(3) == {"": 3}
