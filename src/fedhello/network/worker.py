"""The worker of a client answers the messages of ``fedhello.network.engine``: join, sums, scores, train and bye.

It loads the model when it joins and keeps it in memory. It trains with the local engine, as the only client
of a federation, so that training is the same as in a run on one machine.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedhello.client.scoring import as_shares
from fedhello.client.settings import TrainingSettings
from fedhello.data.batches import Samples
from fedhello.engine.local import LocalEngine
from fedhello.engine.tensors import short
from fedhello.engine.wire import decode_adapter, decode_task, encode_tensors
from fedhello.errors import EngineError, FedhelloError, UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.model.private_sums import PrivateStatistics
from fedhello.model.statistics import DEFAULT_STATISTICS, HeadSums, StatisticsSettings, as_sent
from fedhello.network.consent import DEFAULT_CONSENT, Consent, check_sizes
from fedhello.network.limits import Limits
from fedhello.network.messages import PROBE, PROTOCOL, Fields, one_line
from fedhello.network.own_ledger import OwnLedger
from fedhello.network.refusals import Code, RefusalError, code_named, code_of, refusal
from fedhello.network.registry import ClientInfo
from fedhello.notes import logger
from fedhello.privacy.secure import SecureRound
from fedhello.types import Client, Federation, Rejection

if TYPE_CHECKING:
    from fedhello.network.masks import Masks

HUNG = 75
"""Exit code of a worker whose training exceeds the server's deadline."""


_WORK: Mapping[str, type | tuple[type, ...]] = {"client": int, "run": str, "task": bytes, "seconds": (int, float)}

FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "sums": {"client": int, "run": str},
    "scores": {**_WORK, "samples": int, "batch_size": int},
    "train": _WORK,
    "keys": {"client": int, "purpose": str, "bits": int},
    "shares": {"purpose": str, "keys": str, "plan": str},
    "unmask": {"purpose": str, "stayed": str},
}
"""Message → the fields that it must have, and their types."""

LEAST = {"client": 0, "seconds": 0, "samples": 1, "batch_size": 1, "bits": 32}
"""The smallest value of a field that is a number."""


@dataclass(frozen=True)
class Prepared:
    """A client that is ready to train.

    Attributes:
        model: The model with a new adapter and head.
        data: The client's samples.
        settings: The settings of local training.
        facts: The facts that the client reports.
        seed: The run's seed.
        initial: The initial values of adapter and head.
        secure: What the client knows of a run with secure sums; None sends updates as they are.
        statistics: Settings of the head statistics.
        limits: What is checked of a task before it is carried out; None checks nothing.
        private: What it contributes to a head under differential privacy; None without it.
        digest: Digest of the samples, which stays with the client.
        ledger: Counts what leaves of single samples under differential privacy; None where they are not protected.
    """

    model: LoraModel
    data: Samples
    settings: TrainingSettings
    facts: ClientInfo
    seed: int
    initial: Mapping[str, Tensor]
    statistics: StatisticsSettings = DEFAULT_STATISTICS
    secure: SecureRound | None = None
    limits: Limits | None = None
    private: PrivateStatistics | None = None
    digest: str = ""
    ledger: OwnLedger | None = None

    def engine(self, k: int, run: str) -> LocalEngine:
        """Return the engine that trains this client with its id."""
        client = Client(k, 0, self.facts.as_budget(), len(self.data), self.facts.classes)
        world = Federation((client,), (client.budget,), self.model.blocks.count, clients_per_round=1, seed=self.seed)
        data = {k: self.data}
        return LocalEngine(
            self.model, world, data, self.settings, run=run, statistics=self.statistics, private=self.private
        )


Prepare = Callable[[dict[str, Any], Sequence[str]], Prepared]
"""Function that prepares a client from the server's configuration, as nested mappings, and the class names."""


class Worker:
    """Answers messages, one after the other.

    Attributes:
        ended: How the run ended, once it is over.
        failure: Why this client cannot take part, if it cannot.
    """

    def __init__(
        self, prepare: Prepare, watched: bool = True, consent: Consent = DEFAULT_CONSENT, key: str | None = None
    ) -> None:
        """Make a worker that has not joined a run yet.

        Args:
            prepare: Prepares the client.
            watched: Whether this process ends if training exceeds the server's deadline.
            consent: The owner's, for what is checked before the client is prepared, and in secure sums.
            key: The file of the client's private key, which signs its keys in secure sums; None without one.
        """
        self.ended: str | None = None
        self.failure: FedhelloError | None = None
        self._prepare, self._watched, self._consent, self._key = prepare, watched, consent, key
        self._joined: tuple[str, str] | None = None
        self._client: Prepared | None = None
        self._masks: Masks | None = None

    def answer(self, kind: str, fields: Fields) -> Fields:
        """Answer a message; an error becomes a reply with a code, and its text stays in this client's log."""
        if kind == "join":
            return self._join(fields)
        if kind == "bye":
            self.ended = one_line(fields.get("outcome", "nobody said how"))
            return {}
        answers = {"sums": self._sums, "scores": self._scores, "train": self._train}
        answers |= {step: partial(self._mask, step) for step in ("keys", "shares", "unmask")}
        if kind not in answers:
            return _refused("malformed", f"expected a message to join, {', '.join(answers)} or bye; found {kind!r}")
        if self._client is None:
            return _refused("join first", "expected to be asked to join first; this client has started anew")
        try:
            return answers[kind](self._client, _checked(kind, fields))
        except Exception as error:  # its text may hold values of the data
            return _refused(code_of(error), one_line(error if isinstance(error, FedhelloError) else repr(error)))

    def _join(self, fields: Fields) -> Fields:
        begin = time.monotonic()
        try:
            _check_versions(fields)
            asked = str(fields.get("config")), str(fields.get("labels"))
            client = self._client
            if client is None or self._joined != asked:
                check_sizes(self._consent, *asked)
                before, client = client, self._prepare(*_read(*asked))
                if before is not None and before.ledger is not None and client.ledger is not None:
                    client.ledger.follow(before.ledger)
                self._client, self._joined, self._masks = client, asked, self._masks_of(client)
        except FedhelloError as error:
            return self._cannot(error)
        except Exception as error:  # a restart does not help against wrong messages of a server
            return self._cannot(_unforeseen(error))
        busy = time.monotonic() - begin if client.private is None else 0.0  # it tells how much data was loaded
        facts = client.facts.model_copy(update={"busy": busy})
        return {"facts": facts.model_dump_json(), "probe": PROBE}

    def _cannot(self, error: FedhelloError) -> Fields:
        self.failure = error
        return refusal(code_of(error))

    def _sums(self, client: Prepared, fields: Fields) -> Fields:
        payload = bytes(fields.get("adapter", b""))
        if client.limits is not None:
            client.limits.check_sums(payload)
        if client.ledger is not None:
            client.ledger.sums(bool(payload))
        client.model.write(client.initial)
        adapter = decode_adapter(payload, client.model.block_of) if payload else None
        engine = client.engine(int(fields["client"]), str(fields["run"]))
        contribution = next(iter(engine.head_sums(adapter=adapter)))
        if self._masks is not None:
            return self._masks.sums(fields, contribution.sums)
        _say_withheld(client, contribution.sums)
        return {"sums": encode_tensors(as_sent(contribution.sums))}

    def _scores(self, client: Prepared, fields: Fields) -> Fields:
        if client.limits is not None:
            client.limits.check_scores(bytes(fields["task"]), int(fields["batch_size"]))
        if client.ledger is not None:
            client.ledger.scores()
        task = decode_task(bytes(fields["task"]), int(fields["client"]), client.model.block_of)
        with self._watch(float(fields["seconds"])):
            engine = client.engine(task.client, str(fields["run"]))
            sums = engine.score(task, int(fields["samples"]), int(fields["batch_size"]))
        sums = sums if client.private is None else as_shares(sums)
        return {"scores": encode_tensors(sums.tensors)} if self._masks is None else self._masks.scores(fields, sums)

    def _train(self, client: Prepared, fields: Fields) -> Fields:
        run = str(fields["run"])
        if client.limits is not None:
            client.limits.check_train(bytes(fields["task"]))
        task = decode_task(bytes(fields["task"]), int(fields["client"]), client.model.block_of)
        if client.ledger is not None:
            client.ledger.train(task)
        with self._watch(float(fields["seconds"])):
            engine = client.engine(task.client, run)
            update = next(iter(engine.train([task])))
        if isinstance(update, Rejection):
            return _refused(code_named(update.reason), update.detail)
        if self._masks is not None:
            return self._masks.update(fields, task, update)
        return {"update": engine.encoded(task, update)}

    def _mask(self, step: str, client: Prepared, fields: Fields) -> Fields:
        if self._masks is None:
            raise UpdateError("expected a run with privacy.secure; this run has none")
        return {"keys": self._masks.keys, "shares": self._masks.shares, "unmask": self._masks.unmask}[step](fields)

    def _masks_of(self, client: Prepared) -> "Masks | None":
        if client.secure is None:
            return None
        from fedhello.network.masks import Masks
        from fedhello.network.vouching import read_vouching

        return Masks(client.secure, self._consent.least, read_vouching(self._key, self._consent.trusted))

    @contextmanager
    def _watch(self, seconds: float) -> Iterator[None]:
        """End this process after the server's deadline, since hanging training cannot be stopped otherwise."""
        timer = threading.Timer(seconds, os._exit, [HUNG])
        timer.daemon = True
        if self._watched:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _say_withheld(client: Prepared, sums: HeadSums) -> None:
    """Log what the owner's consent leaves out of head statistics."""
    settings = client.statistics
    every = torch.bincount(torch.from_numpy(client.data.labels), minlength=len(sums.counts))
    few = (every > 0) & (every < settings.own_least)
    if bool(few.any()):
        logger.warning(
            "head statistics leave without %d of %d classes, of fewer than %d samples (least_per_class of the consent)",
            int(few.sum()),
            int((every > 0).sum()),
            settings.own_least,
        )
    if not settings.sends_moments(every, sums.features.shape[1]):
        logger.warning(
            "head statistics leave with the trace of their second moments alone, since these would tell single ones of "
            "%d samples (least_for_moments of the consent)",
            int(sums.counts.sum()),
        )


def _checked(kind: str, fields: Fields) -> Fields:
    """Return the fields of a message once they are all there, of their types.

    Raises:
        UpdateError: If one is missing or of another type, or a number is out of range.
    """
    for name, type_ in FIELDS[kind].items():
        found = fields.get(name)
        if not isinstance(found, type_) or (isinstance(found, (int, float)) and not LEAST[name] <= found < 2**31):
            raise UpdateError(
                f"expected a message {kind} with {', '.join(FIELDS[kind])}; found {short(found)} as {name}. The server "
                "does not speak as it should; install the same version of fedhello at both ends.",
                "malformed",
            )
    if not isinstance(fields.get("adapter", b""), bytes):
        raise UpdateError(f"expected bytes as adapter; found {short(fields['adapter'])}", "malformed")
    return fields


def _refused(code: Code, detail: str) -> Fields:
    """Log why something is not done, and return the reply, which has the code alone."""
    logger.warning("the server's request was not carried out (%s): %s", code, one_line(detail))
    return refusal(code)


def _unforeseen(error: Exception) -> EngineError:
    said = one_line(f"{type(error).__name__}: {error}")
    failure = EngineError(
        f"expected a client to come of what the server sends when it asks to join; {said}. If this machine has memory "
        "enough, the server does not speak as it should."
    )
    failure.__cause__ = error
    return failure


def _read(config: str, labels: str) -> tuple[dict[str, Any], list[str]]:
    """Return the sections of a configuration, which is checked later, and the class names in a message ``join``.

    Raises:
        RefusalError: If the message is not valid.
    """
    try:
        found, names = json.loads(config), json.loads(labels)
    except ValueError as error:
        raise RefusalError(
            f"expected a server that speaks as it should; its configuration or its labels are no JSON: {error}",
            "malformed",
        ) from error
    sections = found.items() if isinstance(found, dict) else [("", found)]
    odd = [key for key, section in sections if key != "parity" and not isinstance(section, dict)]
    if odd:
        raise RefusalError(
            "expected a server that speaks as it should, with a configuration of sections such as model: and data:; "
            f"found {one_line(config)}",
            "malformed",
        )
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise RefusalError(
            f"expected a server that speaks as it should, with a list of different labels; found {one_line(labels)}",
            "malformed",
        )
    return found, names


def _check_versions(fields: Fields) -> None:
    """Check that server and client have the same version.

    Raises:
        RefusalError: If they differ.
    """
    theirs = fields.get("protocol"), fields.get("version")
    ours = version("fedhello")
    if theirs != (PROTOCOL, ours):
        raise RefusalError(
            f"expected a server with fedhello {ours}, as this client has; found {one_line(theirs[1])}. Install the "
            "same.",
            "other version",
        )
