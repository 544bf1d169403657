"""No round is committed after which the model's losses on the server's validation data are not finite.

Every value that a client sends is at most 10⁶, see ``engine.tensors``. With such values in several factors at once, the
outputs of a model can still overflow. A server that searches its step does not take one that leads there; any other
server notices at the evaluation. The round is then undone, the attempt counts as failed, and the round is attempted
again. In these attempts a client is left out if one of its values is more than ten times as large in absolute value as
the median of the clients' largest values in the attempt before (of two clients: the lower).

That is checked after each round: on its own evaluation where it has one, and on a few validation samples otherwise, as
values that overflow do so for all. Where the losses are not finite before the round either, it changes nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median_low

import numpy as np

from fedhello.data.batches import Samples
from fedhello.model.evaluation import Evaluation, evaluate
from fedhello.model.number_type import in_bfloat16
from fedhello.session import Session
from fedhello.state import RoundReport, RunState
from fedhello.strategy import the_global_model
from fedhello.types import Rejection, Update

OUTLYING = 10.0
"""From how many times the median on a client's largest value stands out."""

CHECKED = 32
"""The most validation samples that a round is checked on if it is not scored."""

FAILED = "with the combined values the losses on the server's validation data are not finite"


@dataclass
class FiniteRounds:
    """Undoes rounds after which losses are not finite, and then leaves clients out whose values stand out.

    Attributes:
        session: The session.
        most: The largest value that counts in an attempt after one that was undone; None in others.
    """

    session: Session
    most: float | None = None
    _largest: dict[int, float] = field(default_factory=dict)

    def screened(self, replies: Iterable[Update | Rejection]) -> Iterator[Update | Rejection]:
        """Yield the replies of a round; those whose values stand out, after an attempt that was undone, as rejected."""
        self._largest = {}
        if self.session.private is not None:  # nobody is judged by the others
            yield from replies
            return
        for reply in replies:
            largest = _largest_value(reply) if isinstance(reply, Update) else None
            if isinstance(reply, Update) and largest is not None:
                if self.most is not None and largest > self.most:
                    reply = _outlier(reply, largest, self.most)
                else:
                    self._largest[reply.client] = largest
            yield reply

    def is_harmed(
        self,
        before: RunState,
        state: RunState,
        record: RoundReport,
        validation: Evaluation | None,
        scored: Callable[[RunState], Evaluation],
    ) -> bool:
        """Whether losses are not finite after a round, and were before it; if not, all values count again.

        Args:
            before: The state before the round.
            state: The state after it.
            record: The report of the round.
            validation: Its evaluation on the validation data; None if it was not scored.
            scored: Evaluates a state on the validation data.
        """
        harmed = not self.is_sound(state, record, validation) and math.isfinite(scored(before).loss)
        if not harmed:
            self.most = None
        return harmed

    def is_sound(self, state: RunState, record: RoundReport, validation: Evaluation | None) -> bool:
        """Whether the losses after a round are finite, as far as that can be said; see ``is_harmed``."""
        if validation is not None:
            return math.isfinite(validation.loss)
        single = state.personal_heads is None and self.session.row.models is the_global_model
        if record.step is not None or not single:
            return True  # a searched step was checked already; the others have no single model
        return self._are_finite(state)

    def _are_finite(self, state: RunState) -> bool:
        if self.session.settings.selects:  # the selection has computed the losses already
            return bool(self.session.losses(state.adapter).isfinite().all())
        session, model = self.session, self.session.model
        model.write(state.adapter.tensors)
        with in_bfloat16(model, session.bfloat16):
            return math.isfinite(evaluate(model, _some(session.server.validation)).loss)

    def undone(self, before: RunState, state: RunState, record: RoundReport) -> tuple[RunState, RoundReport]:
        """Return the state before a round, one attempt later, and the report of the round with the cause."""
        typical = median_low(self._largest.values()) if self._largest else 0.0
        odd = {k: value for k, value in self._largest.items() if value > OUTLYING * typical}
        self.most = OUTLYING * typical if odd else None
        if odd:
            who = "; ".join(f"client {k} sent values of up to {value:.3g}" for k, value in sorted(odd.items()))
            cause = f"{who}, the median of the clients is {typical:.3g}; such values are rejected in the next attempt"
        else:
            cause = "no client's values stand out; lower train.lr"
        flag = f"the round was undone, since {FAILED}: {cause}"
        record = replace(record, failed=f"{FAILED}: {cause}", flags=(*record.flags, flag))
        return replace(before, attempt=before.attempt + 1, excess=state.excess), record


def _some(samples: Samples) -> Samples:
    """Return ``CHECKED`` of the samples, spread over all of them."""
    return samples.subset(np.unique(np.linspace(0, len(samples) - 1, CHECKED).round().astype(int)))


def _largest_value(update: Update) -> float | None:
    """Return the largest absolute value of an update; None where it has none, such as a masked one."""
    found = [
        float(value.abs().max()) for value in update.tensors.values() if value.is_floating_point() and value.numel()
    ]
    return max(found, default=None)


def _outlier(update: Update, largest: float, most: float) -> Rejection:
    detail = (
        f"expected values of at most {most:.3g}, {OUTLYING:g} times the median of the clients in the attempt before, "
        f"which was undone; found {largest:.3g}, from client {update.client} in round {update.round}"
    )
    return Rejection(update.client, update.round, "out of bounds", detail, update.bytes_down, update.bytes_up)
