"""The head of a run under differential privacy, solved from one release of the clients' sums."""

import logging
from dataclasses import replace

import torch

from fedhello.model.evaluation import pooled_features
from fedhello.model.head import Family, family
from fedhello.model.private_sums import WHOLE, PrivateHead, noised, repaired
from fedhello.model.statistics import HeadSums, plus
from fedhello.privacy.ledger import Ledger
from fedhello.session import Session
from fedhello.state import RunState

logger = logging.getLogger("fedhello")


def ledger_of(private: PrivateHead, state: RunState) -> Ledger:
    """Return the ledger of a run with what a state has released."""
    return Ledger(private.epsilon, private.delta, state.releases)


def released_sums(
    session: Session, state: RunState, private: PrivateHead
) -> tuple[RunState, HeadSums, tuple[int, int]]:
    """Collect the clients' contributions, release their sum with noise, and enter it in the ledger.

    ε is said at once, so that it is known whatever happens afterwards.

    Returns:
        The state with the release in its ledger, the repaired sums, and the bytes up and down.

    Raises:
        PrivacyError: If the budget does not cover it.
    """
    ledger = ledger_of(private, state).spent(private.release)
    deviation = private.release.noise * private.statistics.most
    total: HeadSums | None = None
    up = down = 0
    for found in session.engine.head_sums():
        total = found.sums if total is None else plus(total, found.sums)
        up, down = up + found.bytes_up, down + found.bytes_down
    if total is None:
        raise ValueError("expected contributions of at least one client; found none")
    logger.warning(ledger.words())
    parts = [part for part in (session.server.validation, session.server.proxy) if len(part)]
    public = torch.cat([pooled_features(session.model, part) for part in parts])
    sums = repaired(noised(total, deviation), deviation, public, private.statistics.moments)
    return replace(state, releases=ledger.releases), sums, (up, down)


def private_family(session: Session, sums: HeadSums) -> Family:
    """Return the heads to choose from: nearest class means, or with second moments those of the run's solver."""
    private = session.private
    solver = session.head.solver if private is not None and private.statistics.moments else "lda"
    return family(sums, WHOLE, solver, session.head.priors)
