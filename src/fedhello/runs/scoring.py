"""Fisher scores of a run: from the server's proxy set or from the clients of the round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedhello.allocation.planner import means
from fedhello.client.fisher import block_scores
from fedhello.client.scoring import ScoreReply, ScoreRequest, mean_scores
from fedhello.errors import EngineError, PrivacyError
from fedhello.privacy.rounds import released_scores
from fedhello.session import Session
from fedhello.state import RoundReport, RunState
from fedhello.strategy import AllocationContext
from fedhello.types import Client


@dataclass
class Scorer:
    """Computes Γ for Algorithm 1, and keeps the clients' replies until they are recorded.

    Attributes:
        session: The session.
        replies: Those of the clients asked since the last record.
    """

    session: Session
    replies: tuple[ScoreReply, ...] = ()

    def __call__(self, state: RunState, clients: tuple[Client, ...]) -> tuple[float, ...]:
        """Return Γ under the state's adapter; the previous Γ if no client contributes.

        Raises:
            EngineError: If no client contributes, and there is no previous Γ.
        """
        scoring, session = self.session.method.scoring, self.session
        session.engine.observer.on_phase("scores")
        if scoring.source == "proxy":
            session.model.write(state.adapter.tensors)
            return block_scores(session.model, session.server.proxy)
        asked = tuple(self._within_means(state, client) for client in clients)
        private = None if session.private is None else session.private.scores
        request = ScoreRequest(state.adapter, asked, state.round, state.attempt, scoring.samples, private is not None)
        try:
            self.replies = tuple(session.engine.block_scores(request)) if asked else ()
        except PrivacyError:
            if private is None:
                raise
            self.replies = ()  # too few for a secure sum: as if nobody had been asked, and the noise is released
        sums = [reply.sums for reply in self.replies if reply.sums is not None]
        if private is not None:
            squares = [one.squares for one in sums]
            expected = session.federation.clients_per_round
            return released_scores(squares, private, session.federation.num_blocks, expected)
        if sums:
            return mean_scores(sums)
        if state.scores is None:
            raise EngineError(
                f"expected Fisher scores from the clients of round {state.round + 1}; none came "
                f"({'; '.join(f'{reply.who}: {reply.note}' for reply in self.replies)}). Fix what they "
                "report, or score on the server: method.scores=proxy with data.proxy > 0."
            )
        return state.scores

    def _within_means(self, state: RunState, client: Client) -> Client:
        """Return a client with the memory budget used in planning, which is smaller after it exceeded its budget."""
        excess = state.excess.get(client.id, 1.0)
        budget, _ = means(AllocationContext(client, self.session.federation, state.round, excess=excess))
        return replace(client, budget=budget)

    def recorded(self, record: RoundReport) -> RoundReport:
        """Return a round's report with the bytes of its scores and notes on missing clients, and clear the replies."""
        replies, self.replies = self.replies, ()
        is_private = self.session.private is not None
        nobody = bool(replies) and all(reply.sums is None for reply in replies) and not is_private
        return replace(
            record,
            scored=record.scored and not nobody,
            flags=record.flags if is_private else (*noted(replies), *record.flags),
            score_bytes_down=sum(reply.bytes_down for reply in replies),
            score_bytes_up=sum(reply.bytes_up for reply in replies),
        )


def noted(replies: Sequence[ScoreReply]) -> list[str]:
    """Return notes on the clients' replies, one sentence each."""
    lines = []
    for reply in replies:
        if reply.sums is None:
            lines.append(f"the Fisher scores do not include {reply.who}: {reply.note}")
        elif reply.note:
            lines.append(f"{reply.who} exceeds its memory budget when scoring: {reply.note}")
    if replies and all(reply.sums is None for reply in replies):
        lines.append("no client of the round contributes Fisher scores; the previous scores are used")
    return lines
