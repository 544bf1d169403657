"""A finished run read from its folder: configuration, summary, rounds, and curves by rounds and costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

from fedhello.config.schema import Config
from fedhello.config.stored import stored_config
from fedhello.errors import RunFolderError
from fedhello.runs.folder import RunFolder
from fedhello.runs.summary import Summary
from fedhello.session import is_scored_after


@dataclass(frozen=True)
class Curve:
    """The scored states of a run; position 0 is before training.

    Attributes:
        rounds: Number of rounds before each state.
        accuracy: Test accuracy of each state.
        bytes_up: Bytes that clients sent before each state, including head statistics.
        bytes_down: Bytes that clients received before each state.
        flops: Predicted FLOPs of the clients' training before each state; None without a prediction.
    """

    rounds: tuple[int, ...]
    accuracy: tuple[float, ...]
    bytes_up: tuple[int, ...]
    bytes_down: tuple[int, ...]
    flops: tuple[float, ...] | None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        label: The folder's name without the seed.
        folder: The run's folder.
        config: Its configuration.
        summary: Its summary.
        rounds: One object per round, at least one.
    """

    label: str
    folder: RunFolder
    config: Config
    summary: Summary
    rounds: list[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.config.run.seed

    @property
    def start(self) -> float:
        """Test accuracy before training."""
        return self._scored("start", self.summary.start)

    @property
    def mean_last_5(self) -> float:
        """Test accuracy over the last scored rounds."""
        return self._scored("mean_last_5", self.summary.mean_last_5)

    def _scored(self, name: str, found: float | None) -> float:
        if found is None:
            raise RunFolderError(f"expected {name} in the summary of the finished run {self.folder.path}; found null")
        return found

    @cached_property
    def curve(self) -> Curve:
        """The curve of the run's scored states."""
        train = self.config.train
        done = [t for t in range(len(self.rounds) + 1) if is_scored_after(t, train.rounds, train.evaluate_every)]
        return Curve(
            tuple(done),
            (self.start, *(self.rounds[t - 1]["test"]["accuracy"] for t in done[1:])),
            self._sent("bytes_up", done),
            self._sent("bytes_down", done),
            self._flops(done),
        )

    def _sent(self, key: str, done: Sequence[int]) -> tuple[int, ...]:
        replies = [(*entry["clients"], *entry.get("rejections", ()), *_head(entry)) for entry in self.rounds]
        scores = [entry.get(f"score_{key}", 0) for entry in self.rounds]
        per_round = [sum(reply[key] for reply in one) + score for one, score in zip(replies, scores, strict=True)]
        # Bytes of no round, those of class sums and failed attempts, count before the first round.
        sent = list(accumulate(per_round, initial=getattr(self.summary, key) - sum(per_round)))
        return tuple(sent[t] for t in done)

    def _flops(self, done: Sequence[int]) -> tuple[float, ...] | None:
        found = [[client.get("metrics", {}).get("flops") for client in entry["clients"]] for entry in self.rounds]
        if any(flops is None for of_round in found for flops in of_round):
            return None
        spent = list(accumulate(map(sum, found), initial=0.0))
        return tuple(spent[t] for t in done)


def _head(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entry of a head that was solved again after a round."""
    return [entry["head"]] if entry.get("head") else []


def read_run(folder: RunFolder) -> FinishedRun:
    """Read a finished run.

    Raises:
        ConfigError: If its configuration is not valid in this version.
        RunFolderError: If the folder holds no finished run with at least one round.
    """
    config, summary = stored_config(folder.path), folder.summary()
    if summary.status != "finished":
        raise RunFolderError(f"expected a finished run; {folder.path} is {summary.status}")
    rounds = folder.rounds()
    if not rounds or len(rounds) != summary.rounds:
        raise RunFolderError(
            f"expected the {summary.rounds} rounds of the summary in {folder.path}; rounds.jsonl has {len(rounds)}"
        )
    return FinishedRun(
        folder.path.resolve().name.removesuffix(f"-seed{config.run.seed}"), folder, config, summary, rounds
    )


LADDER = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the most expensive run's cost at which accuracies are compared."""

COSTS: Mapping[str, Callable[[Curve], Sequence[float] | None]] = {
    "bytes_up": lambda curve: curve.bytes_up,
    "flops": lambda curve: curve.flops,
}
"""The costs at which methods are compared: name → function from a curve to the cost of each state."""


def ladders(runs: Mapping[str, Sequence[FinishedRun]]) -> dict[str, tuple[int, ...]]:
    """Return, for each cost, the amounts at which methods are compared; empty if a run has no value of the cost.

    The largest amount is the cost of the most expensive run.
    """
    found = {}
    for cost, of in COSTS.items():
        spent = [of(run.curve) for group in runs.values() for run in group]
        known = [by_state[-1] for by_state in spent if by_state is not None]
        most = max(known) if len(known) == len(spent) else 0
        found[cost] = tuple(round(share * most) for share in LADDER) if most else ()
    return found


def within(costs: Sequence[float], accuracies: Sequence[float], amount: float) -> float | None:
    """Return the accuracy of the last state whose cost is at most an amount; None if even the first cost more.

    Example:
        >>> within([10, 20, 40], [0.5, 0.7, 0.6], 30)
        0.7
    """
    return next((a for cost, a in zip(reversed(costs), reversed(accuracies), strict=True) if cost <= amount), None)


def at_equal_cost(run: FinishedRun, rungs: Mapping[str, Sequence[int]]) -> dict[str, tuple[float | None, ...]]:
    """Return a run's accuracy at each amount of each cost; None if even its first state cost more."""
    spent = {cost: COSTS[cost](run.curve) or () for cost in rungs}
    return {
        cost: tuple(within(spent[cost], run.curve.accuracy, amount) for amount in amounts)
        for cost, amounts in rungs.items()
    }
