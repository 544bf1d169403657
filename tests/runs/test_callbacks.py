from types import SimpleNamespace

import pytest

import fedhello as fh
from fedhello.errors import CallbackError, ConfigError
from fedhello.runs.callbacks import Callback, ConfiguredStop, EarlyStopping, Target, configured, loading_teller
from fedhello.runs.loop import RoundRecord
from fedhello.session import RunSettings, StopSettings

NO_STATE = None


def record(accuracy=None, loss=None, train_loss=None, failed=None, selected=None):
    """What a round came to; None where it was not scored."""
    found = object.__new__(RoundRecord)
    scored = None if accuracy is None and loss is None else SimpleNamespace(accuracy=accuracy, loss=loss)
    for name, value in {
        "validation": scored,
        "train_loss": train_loss,
        "report": SimpleNamespace(failed=failed),
        "selected": selected,
    }.items():
        object.__setattr__(found, name, value)
    return found


def stops(stopping, records, start=0.5):
    begin = SimpleNamespace(validation=SimpleNamespace(accuracy=start, loss=start), records=(), state=NO_STATE)
    stopping.on_start(None, begin)
    return [stopping.on_round(NO_STATE, one) for one in records]


def test_a_run_stops_after_so_many_scored_rounds_without_a_better_value():
    accuracies = [record(accuracy) for accuracy in (0.6, 0.6, 0.5, 0.7, 0.7, 0.6, 0.8)]
    assert stops(EarlyStopping(2), accuracies) == [False, False, True, False, False, True, False]
    assert stops(EarlyStopping(1), accuracies[:2]) == [False, True]


def test_rounds_that_were_not_scored_or_failed_do_not_count():
    unscored = [record(0.4), record(), record(0.4, failed="too few"), record(0.4)]
    assert stops(EarlyStopping(2), unscored) == [False, False, False, True]


def test_a_lower_loss_is_better_and_better_by_enough():
    losses = [record(loss=loss) for loss in (0.45, 0.3, 0.25)]
    assert stops(EarlyStopping(1, "validation_loss", min_delta=0.1), losses) == [True, False, True]
    trained = [record(train_loss=loss) for loss in (1.0, 0.5, 0.5)]
    assert stops(EarlyStopping(1, "train_loss"), trained) == [False, False, True]


def test_patience_goes_on_with_the_rounds_of_earlier_processes():
    stopping = EarlyStopping(2)
    earlier = (record(0.4), record(0.4))
    stopping.on_start(
        None, SimpleNamespace(validation=SimpleNamespace(accuracy=0.5, loss=1), records=earlier, state=None)
    )
    assert stopping.on_round(NO_STATE, record(0.4))


@pytest.mark.parametrize(
    "wrong", [{"patience": 0}, {"patience": 1, "min_delta": -0.1}, {"patience": 1, "metric": "test_accuracy"}]
)
def test_what_cannot_be_watched_is_refused(wrong):
    with pytest.raises(ConfigError, match="expected EarlyStopping"):
        EarlyStopping(**wrong)


def test_a_callback_that_does_nothing_lets_a_run_go_on():
    plain = Callback()
    assert plain.on_start(None, None) is plain.on_round(None, record()) is plain.on_end({}) is None


def test_what_is_loaded_is_told_and_an_error_names_its_callback():
    class Breaks(Callback):
        def on_loading(self, what):
            raise ValueError(what)

    told = []
    hears = SimpleNamespace(on_loading=told.append)
    loading_teller([hears, Callback()])("the model")
    assert told == ["the model"]
    with pytest.raises(CallbackError, match="the callback Breaks failed in on_loading: ValueError: the data"):
        loading_teller([hears, Breaks()])("the data")


def test_where_patience_has_ended_in_an_earlier_process_a_run_does_not_go_on():
    begin = SimpleNamespace(validation=SimpleNamespace(accuracy=0.5), records=(record(0.4), record(0.4)), state=None)
    assert EarlyStopping(2).on_start(None, begin)
    assert not EarlyStopping(3).on_start(None, begin)


def test_a_target_counts_in_scored_rounds_and_not_at_the_start():
    rounds = [record(0.6), record(), record(0.7, failed="too few"), record(0.7), record(0.8)]
    assert stops(Target(0.7), rounds, start=0.9) == [False, False, False, True, True]
    begin = SimpleNamespace(validation=SimpleNamespace(accuracy=0.9), records=(record(0.8), record()), state=None)
    assert not Target(0.7).on_start(None, begin), "of the rounds before, it would have stopped in the first"


def test_the_model_from_before_training_does_not_count_where_it_would_be_returned():
    rounds = [record(0.9, selected=0), record(0.9, selected=0), record(0.8, selected=3)]
    assert stops(Target(0.7), rounds) == [False, False, True]
    begin = SimpleNamespace(validation=SimpleNamespace(accuracy=0.9), records=tuple(rounds[:2]), state=None)
    assert not Target(0.7).on_start(None, begin)


def test_a_run_that_a_target_stops_returns_what_has_reached_it(place):
    words = {"train.rounds": 3, "train.target": 0.01, "train.measure_memory": False}
    chosen = fh.run("tiny.yaml", words | {"run.name": "a", "train.lr": 0.1})
    assert [(record.selected, record.validation.accuracy >= 0.01) for record in chosen.rounds] == [(0, True), (2, True)]
    assert (chosen.summary.status, chosen.summary.selection.round) == ("stopped", 2)
    last = fh.run("tiny.yaml", words | {"run.name": "b", "train.lr": 0.1, "train.selection": "last"})
    assert (last.summary.status, last.summary.rounds) == ("stopped", 1)


def test_a_runs_own_settings_stop_it_with_the_key_as_the_reason():
    assert configured(RunSettings(0, 3)) == []
    stop, target = configured(RunSettings(0, 3, stop=StopSettings(2, 0.1), target=0.7))
    assert isinstance(stop, ConfiguredStop) and (stop.patience, stop.metric) == (2, "validation_accuracy")
    assert stops(stop, [record(0.55), record(), record(0.58)]) == [False, False, True]
    assert (
        stop.reason
        == "train.stop: validation_accuracy has not been better than 0.5 by more than 0.1 for 2 scored rounds"
    )
    assert stops(target, [record(0.71)]) == [True]
    assert target.reason == "train.target: the validation accuracy, 0.71, has reached 0.7"
