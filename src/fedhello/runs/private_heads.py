"""The head of a run under differential privacy, solved from one release of the clients' sums."""

import logging
from dataclasses import replace

import torch

from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Head
from fedhello.model.private_sums import PrivatePlan, head_of, noised
from fedhello.model.statistics import HeadSums, plus
from fedhello.privacy.ledger import Ledger
from fedhello.session import Session
from fedhello.state import RunState

logger = logging.getLogger("fedhello")


def ledger_of(private: PrivatePlan, state: RunState) -> Ledger:
    """Return the ledger of a run with what a state has released."""
    return Ledger(private.epsilon, private.delta, state.releases, private.releases, private.statistics.unit)


def released_sums(
    session: Session, state: RunState, private: PrivatePlan
) -> tuple[RunState, HeadSums, Head, tuple[int, int]]:
    """Collect the clients' contributions, release their sum with noise, and enter it in the ledger.

    ε is said at once, so that it is known whatever happens afterwards.

    Returns:
        The state with the release in its ledger, the sums that the head is solved from, the head, and the bytes up and
        down.

    Raises:
        PrivacyError: If the budget does not cover it.
    """
    ledger = ledger_of(private, state).spent(private.head)
    total: HeadSums | None = None
    up = down = 0
    session.engine.observer.on_phase("heads")
    for found in session.engine.head_sums():
        total = found.sums if total is None else plus(total, found.sums)
        up, down = up + found.bytes_up, down + found.bytes_down
    if total is None:
        raise ValueError("expected contributions of at least one client; found none")
    logger.warning(ledger.words())
    server, settings, deviation = session.server, session.head, private.head.noise * private.statistics.most
    parts = [part for part in (server.validation, server.proxy) if len(part)]
    own = [pooled_features(session.model, part, session.bfloat16) for part in parts]
    sums, head = head_of(
        noised(total, deviation),
        deviation,
        torch.cat(own),
        torch.from_numpy(server.validation.labels),
        settings.solver if private.statistics.moments else None,
        settings.priors,
        settings.shrinkages,
    )
    return replace(state, releases=ledger.releases), sums, head, (up, down)
