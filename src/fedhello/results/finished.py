"""A finished run read from its folder: configuration, summary, rounds, and curves by rounds and costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from fedhello.config.schema import Config
from fedhello.config.stored import stored_config
from fedhello.errors import RunFolderError
from fedhello.model.evaluation import Evaluation
from fedhello.runs.folder import RunFolder
from fedhello.runs.heads import HeadChange
from fedhello.runs.loop import RoundRecord
from fedhello.runs.summary import Summary
from fedhello.session import is_scored_after
from fedhello.state import ClientReport
from fedhello.types import Rejection


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
        rounds: The records of its finished rounds, at least one.
    """

    label: str
    folder: RunFolder
    config: Config
    summary: Summary
    rounds: tuple[RoundRecord, ...]

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
        every = 1 if train.evaluate_every == "auto" else train.evaluate_every
        done = [t for t in range(len(self.rounds) + 1) if is_scored_after(t, train.rounds, every)]
        up, down = zip(*(_traffic(record) for record in self.rounds), strict=True)
        return Curve(
            tuple(done),
            (self.start, *(self.test_after(t).accuracy for t in done[1:])),
            _sent(up, self.summary.bytes_up, done),
            _sent(down, self.summary.bytes_down, done),
            self._flops(done),
        )

    def test_after(self, done: int) -> Evaluation:
        """Return the test scores after so many rounds, at least one.

        Raises:
            RunFolderError: If that state was not scored.
        """
        test = self.rounds[done - 1].test
        if test is None:
            raise RunFolderError(f"expected test scores after round {done} of {self.folder.path}; found none")
        return test

    def _flops(self, done: Sequence[int]) -> tuple[float, ...] | None:
        found = [[client.metrics.get("flops") for client in record.report.clients] for record in self.rounds]
        known = [[flops for flops in of_round if flops is not None] for of_round in found]
        if known != found:
            return None
        spent = list(accumulate(map(sum, known), initial=0.0))
        return tuple(spent[t] for t in done)


def _traffic(record: RoundRecord) -> tuple[int, int]:
    """Return the bytes that clients sent and received in a round: for replies that count or not, scores and a head."""
    report = record.report
    replies: list[ClientReport | Rejection | HeadChange] = [*report.clients, *report.rejections]
    replies += [] if record.head is None else [record.head]
    up, down = sum(one.bytes_up for one in replies), sum(one.bytes_down for one in replies)
    return up + report.score_bytes_up, down + report.score_bytes_down


def _sent(per_round: Sequence[int], whole: int, done: Sequence[int]) -> tuple[int, ...]:
    """Return the bytes that were sent by each state; what no round accounts for was sent before the first one."""
    sent = list(accumulate(per_round, initial=whole - sum(per_round)))
    return tuple(sent[t] for t in done)


def read_run(folder: RunFolder) -> FinishedRun:
    """Read a finished run.

    Raises:
        ConfigError: If its configuration is not valid in this version.
        RunFolderError: If the folder holds no finished run with at least one round.
    """
    config, summary = stored_config(folder.path), folder.summary()
    if not summary.ended:
        raise RunFolderError(f"expected a finished run; {folder.path} is {summary.status}")
    rounds = tuple(folder.rounds())
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
