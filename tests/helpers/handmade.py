"""Rounds, clients and a session of round numbers, from which right values are worked out by hand."""

import os
import socket
from types import SimpleNamespace

from fedhello.data.digest import NOT_KNOWN
from fedhello.formatting import client_words
from fedhello.methods import METHODS
from fedhello.model.evaluation import Evaluation
from fedhello.model.head import HeadSettings
from fedhello.model.sources import ModelSource
from fedhello.model.statistics import DEFAULT_STATISTICS
from fedhello.runs.loop import RoundRecord, RunStart
from fedhello.runs.status import BestScore, ClientStatus, ConnectedClient, Status
from fedhello.session import RunSettings
from fedhello.state import ClientReport, RoundReport, RunState
from fedhello.types import Adapter, Budget, Federation, Rejection

SETTINGS = RunSettings(seed=3, rounds=4)

STATUS = Status(
    pid=os.getpid(),
    host=socket.gethostname(),
    phase="training",
    round=2,
    rounds=5,
    attempt=0,
    started=1000.0,
    updated=4e9,
    round_started=1100.0,
    seconds_left=30.5,
    best=BestScore(0.75, 2),
    clients=(ClientStatus(3, "berlin", 1, "training", 20, 60, 1101.0), ClientStatus(4, None, 0, "late", 0, 0, 1.0)),
    connected=(ConnectedClient(3, "berlin", 1102.0),),
    memory_bytes=10**9,
    disk_free_bytes=10**10,
)
"""What a server that is this process does, in its third round."""


def score(accuracy, loss=1.0, **more):
    return Evaluation(accuracy, loss, 40, more)


def trained(k, tier=0, blocks=(0,), up=100, down=300, samples=10, seconds=0.5, **metrics):
    """What is remembered of client k in a round."""
    metrics = {"loss": 1.0, "samples": samples, "seconds": seconds, **metrics}
    return ClientReport(k, tier, blocks, (), samples, metrics, down, up)


def lost(k, t=0, reason="late", detail="", up=0, down=300):
    return Rejection(k, t, reason, detail, bytes_down=down, bytes_up=up)


def played(t, clients=(), test=0.5, validation=0.4, head=None, selected=None, loss=1.0, scored=False, **report):
    """What round t came to; it was not scored where test is None."""
    found = RoundReport(t, tuple(clients), (0, 0, 0), None, scored, **report)
    scores = (None, None) if test is None else (score(validation), score(test))
    return RoundRecord(found, loss, *scores, seconds=2.0, evaluation_seconds=0.25, head=head, selected=selected)


def begun(test=0.25, validation=0.25, head=None, state=None):
    return RunStart(state or RunState(0, Adapter({}, {})), head, score(validation), score(test))


def session(**changes):
    """What of a session is read to show a run and to put it into numbers: two tiers, three clients, three blocks."""
    tiers = (Budget(blocks=1), Budget(blocks=3))
    plain = {
        "settings": SETTINGS,
        "row": METHODS["rgd-hla"],
        "head": HeadSettings(),
        "statistics": DEFAULT_STATISTICS,
        "private": None,
        "digest": NOT_KNOWN,
        "federation": Federation((), tiers, num_blocks=3, clients_per_round=2, seed=3),
        "tier_of": (0, 1, 1),
        "called": client_words,
        "model": SimpleNamespace(
            source=ModelSource("some/model", "some/model"), kind="text-classification", pooling="mean"
        ),
        "labels": ("fruit", "metal"),
        "notes": ("said before",),
    }
    return SimpleNamespace(**{**plain, **changes})
