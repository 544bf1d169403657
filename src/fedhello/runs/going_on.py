"""What of a run changes where it goes on: the number of its rounds, and the learning rate.

Under a schedule that depends on the number of rounds, T, the rounds that are added have the rates of the same rounds of
a run of the new T: with cosine, 10 rounds added to 20 have those of the last third of a run of 30. So rates rise once,
to where a longer run would be, and fall to the end. The rounds before keep what they had, so that the run is not what
one of T rounds from the start would be. What goes by the number of a round, as warm-up and refresh of an allocation do,
goes on with it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fedhello.client.settings import TrainingSettings, learning_rate, with_rate
from fedhello.errors import ConfigError
from fedhello.runs.folder import RunFolder
from fedhello.runs.summary import OWN_ENDS, KeyChange, Summary
from fedhello.session import Session
from fedhello.state import RunState

ROUNDS, RATE = "train.rounds", "train.lr"


End = tuple[int, object, object]
"""When a run ends: ``train.rounds``, ``train.stop`` and ``train.target``."""


def has_ended(folder: RunFolder, before: End, asked: End) -> bool:
    """Whether a run has come to the end that it is to have.

    Args:
        folder: The run's.
        before: The end by its own configuration.
        asked: That with which it is to go on.

    Raises:
        ConfigError: If it has finished more rounds than that, or what stopped it would do so again at once.
    """
    if not (folder.path / "summary.json").is_file():
        return False
    summary, done = folder.summary(), before[0]
    if summary.status == "stopped" and summary.ended:
        if before == asked:
            return True
        _check_stops_no_more(folder, summary, before, asked)
    if summary.status == "finished" and asked[0] < done:
        raise ConfigError(
            f"expected more than the {done} rounds that {folder.path} has finished; found train.rounds={asked[0]}. "
            "Rounds are not undone: give a larger number, or +N for N more, or start another run."
        )
    return summary.status == "finished" and asked[0] == done


def _check_stops_no_more(folder: RunFolder, summary: Summary, before: End, asked: End) -> None:
    """Check that what stopped a run has changed, since the rounds that are added would else never come."""
    ends = dict(zip((ROUNDS, *OWN_ENDS), zip(before, asked, strict=True), strict=True))
    by = [key for key in OWN_ENDS if key in (summary.stopped or "")]
    if all(ends[key][0] == ends[key][1] for key in by):
        others = ", ".join(key for key, (one, other) in ends.items() if one != other)
        raise ConfigError(
            f"expected another {' and '.join(by)}, which ended {folder.path} and would end it again before a further "
            f"round; found another {others} alone. Change {' and '.join(f'{key} too: {key}=null' for key in by)}."
        )


def check_rate(folder: RunFolder, own: float, lr: float | None) -> None:
    """Check that no learning rate is asked for that a run which has ended would leave out.

    Args:
        folder: The run's.
        own: η of round 0 by its configuration.
        lr: That which is asked for; None asks for none.

    Raises:
        ConfigError: If it is another than the run's last.
    """
    changed = [change.after for change in folder.summary().changes if change.key == RATE]
    if lr not in (None, changed[-1] if changed else own):
        raise ConfigError(
            f"expected rounds to come that would train with train.lr={lr:g}; {folder.path} has ended. Add some, too: "
            "train.rounds=+N; or change train.stop or train.target, if these ended it."
        )


def changes_of(
    session: Session, found: Mapping[str, Any], state: RunState, lr: float | None
) -> tuple[RunState, list[KeyChange]]:
    """Return the state of a checkpoint with what holds from here on, and what that changes.

    Args:
        session: The session prepared to go on.
        found: The configuration that the checkpoint states, by section; empty without a checkpoint.
        state: The checkpoint's.
        lr: η of round 0; None leaves it.

    Raises:
        ConfigError: If the run has finished as many rounds as it is to have.
    """
    changes, rounds = [], session.settings.rounds
    before = found.get("train", {}).get("rounds", rounds)
    if rounds < state.round or (rounds != before and rounds == state.round):
        raise ConfigError(
            f"expected more than the {state.round} rounds that have finished; found train.rounds={rounds}. Rounds are "
            "not undone: give a larger number, or start another run."
        )
    if before != rounds:
        changes.append(KeyChange(ROUNDS, state.round, before, rounds))
    if lr is None:
        return state, changes
    own = session.engine.settings.lr
    now = own if state.lr is None else state.lr
    if lr != now:
        changes.append(KeyChange(RATE, state.round, now, lr))
        state = replace(state, lr=None if lr == own else lr)
    return state, changes


def said(change: KeyChange, settings: TrainingSettings, lr: float | None) -> str:
    """Return a note on a change.

    Args:
        change: The change.
        settings: How clients train from there on.
        lr: η of round 0 from there on; None is that of the settings.
    """
    start, t = change.round + 1, change.round
    rate, schedule = learning_rate(with_rate(settings, lr), t), settings.lr_schedule
    if change.key == RATE:
        return (
            f"train.lr is {change.after:g} instead of {change.before:g} from round {start} on, since the run was "
            f"resumed with it: clients train with {rate:.3g} in round {start} (train.lr_schedule={schedule})"
        )
    return (
        f"train.rounds is {change.after:g} instead of {change.before:g} from round {start} on: under "
        f"train.lr_schedule={schedule} the further rounds have the learning rates of the same rounds of a run of "
        f"{change.after:g}, {rate:.3g} in round {start}; those before had the rates of one of {change.before:g}"
    )
