"""What the owner of a client's data consents to. It comes from the owner, never from the server."""

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from fedhello import embedded
from fedhello.config.messages import NOT_WRITTEN, Written, sentence
from fedhello.config.schema import Config, ModelConfig
from fedhello.config.section import Section
from fedhello.config.text import read_file
from fedhello.config.typed import by_type, expanded
from fedhello.config.units import Bytes
from fedhello.data.dataset import Kind
from fedhello.errors import ConfigError
from fedhello.model.sources import cached_commit
from fedhello.network.own_data import Role
from fedhello.network.refusals import RefusalError
from fedhello.network.registry import DeclaredBudget

LONGEST_CONFIG = 2**20
"""The most characters of a server's configuration."""

LONGEST_LABELS, LONGEST_LABEL = 10_000, 100
"""The most characters of all class names together: some, and this many for each class that is allowed."""

MOST_NUMBERS = 2**16
"""The most features of a plain module, and the most dimensions of sketched moments."""

MOST_CLIENTS = 10**6
"""The most parts of a configured data set."""

Task = Literal["classification", "instructions", "images"]
"""What a model may be trained for on a client's data."""

TASKS: Mapping[Kind, Task] = {
    "texts": "classification",
    "pairs": "classification",
    "tensors": "classification",
    "images": "images",
    "instructions": "instructions",
}
"""Kind of samples → task."""


def _tuple(value: object) -> object:
    """Return a list, or a single text, as a tuple."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def parse_bytes(text: str) -> int:
    """Return a number of bytes from text with a unit.

    Raises:
        ConfigError: If they are none.
    """
    try:
        return TypeAdapter(Bytes).validate_python(text)
    except ValidationError:
        raise ConfigError(f"expected bytes with a unit, such as 300MB or 4GB; found {text!r}") from None


def _bytes(value: object) -> object:
    """Return bytes with a unit as a number."""
    try:
        return parse_bytes(value) if isinstance(value, str) else value
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _budget(value: object) -> object:
    """Return a budget with its bytes as numbers."""
    if not isinstance(value, Mapping):
        return value
    kept = {name: limit for name, limit in value.items() if limit is not None}
    return {name: _bytes(limit) if name in ("memory", "upload") else limit for name, limit in kept.items()}


Words = Annotated[tuple[str, ...], BeforeValidator(_tuple)]


class Consent(Section):
    """What a client's owner consents to; everything else that a server asks for is refused, never done in part.

    Attributes:
        columns: ``text``, ``label``, ``image``, ``prompt`` or ``response`` → the column with it, or two for pairs of
            texts. Columns that are not named are found by their names and values; the server names none.
        labels: The labels whose samples may be used; None allows all.
        budget: ``memory``, ``upload``, ``seconds``, ``blocks`` and ``rank``; nothing allows the free memory.
        epochs: The most passes over the data per round.
        download: The most bytes of a message from the server.
        tasks: What a model may be trained for: ``classification``, ``instructions``, ``images``.
        models: Patterns, such as ``embedded:*`` or ``org/*``, of public model names that a server may name, and that
            are downloaded. None allows embedded models and those that are on this machine already. A model of the
            owner's own is always allowed.
        statistics: Whether head statistics, which are sums over features by class, may leave.
        scores: Whether sums of squared gradients by block, for Fisher scores, may leave.
        least_per_class: Classes of fewer samples are left out of head statistics.
        least_for_moments: Head statistics over no more samples tell of second moments the trace alone; ``features`` is
            the number of features, up to which single samples can be computed from them. Neither this nor the former
            under secure sums, or for a part of the configured data set, which the server has.
        secure: Whether only runs with secure sums (``privacy.secure``) are taken part in.
        epsilon: The largest ε of a run under differential privacy; others are not taken part in. None allows all.
        delta: The largest δ of such a run.
        ledger: Where single samples are protected (``privacy.unit``), the file in which this client counts what it sent
            of them in all runs together, for which ``epsilon`` is the budget then. None counts each run by itself.
        least: The fewest clients that must have trained what a server learns the secure sum of.
        trusted: A file with the public keys of the clients that may be in a secure sum with this one; None: all may.
        most_rank: The highest LoRA rank of the adapter.
        most_labels: The most classes of the federation.
        most_batch: The most samples of a batch.
        most_tokens: The most tokens of a sample, and of an answer.

    Example:
        >>> fh.Consent(labels=["news", "sport"], epochs=5, download="100MB", scores=False).download
        100000000
    """

    columns: Mapping[Role, str | Words] = {}
    labels: Words | None = None
    budget: Annotated[DeclaredBudget, BeforeValidator(_budget)] = DeclaredBudget()
    epochs: int = Field(100, ge=1)
    download: Annotated[int, BeforeValidator(_bytes), Field(ge=1)] = 1_000_000_000
    tasks: Annotated[tuple[Task, ...], BeforeValidator(_tuple)] = ("classification", "instructions", "images")
    models: Words | None = None
    statistics: bool = True
    scores: bool = True
    least_per_class: int = Field(2, ge=1)
    least_for_moments: Literal["features"] | Annotated[int, Field(ge=0)] = "features"
    secure: bool = False
    epsilon: float | None = Field(None, gt=0)
    delta: float = Field(1e-4, gt=0, lt=1)
    ledger: Path | None = None
    least: int = Field(3, ge=3)
    trusted: Path | None = None
    most_rank: int = Field(1024, ge=1)
    most_labels: int = Field(100_000, ge=1)
    most_batch: int = Field(4096, ge=1)
    most_tokens: int = Field(131_072, ge=1)


DEFAULT_CONSENT = Consent()
"""Of an owner who states nothing."""


def read_consent(source: "Consent | Mapping[str, Any] | str | Path | None", more: Mapping[str, Any] = {}) -> Consent:
    """Return an owner's consent.

    Args:
        source: A value, its keys, or a YAML file with them; None takes the defaults.
        more: Keys that replace those of the source; those below ``columns`` and ``budget`` are replaced one by one.

    Raises:
        ConfigError: If the file cannot be read, or a key or a value is wrong.
    """
    if isinstance(source, Consent):
        raw: dict[str, Any] = source.model_dump(exclude_unset=True)
    else:
        raw = {} if source is None else dict(source) if isinstance(source, Mapping) else read_file(Path(source))
    written = Written(raw, Path(source)) if isinstance(source, (str, Path)) else NOT_WRITTEN
    found = by_type(raw, Consent)
    for key, value in more.items():
        found[key] = {**(found.get(key) or {}), **value} if isinstance(value, Mapping) else value
    for key in ("trusted", "ledger"):
        if isinstance(found.get(key), str):
            found[key] = Path(expanded(found[key], key))
    try:
        consent = Consent.model_validate(found)
    except ValidationError as error:
        raise ConfigError(sentence(error, Consent, "", written)) from error
    if consent.ledger is not None and consent.epsilon is None:
        raise ConfigError("expected epsilon beside ledger, the budget of all that it counts; found none")
    return consent


def check_sizes(consent: Consent, config: str, labels: str) -> None:
    """Check the sizes of a message ``join`` before it is read.

    Args:
        consent: The owner's.
        config: The server's configuration, as JSON.
        labels: The class names, as JSON.

    Raises:
        RefusalError: If there is too much.
    """
    _at_most("characters of configuration", len(config), LONGEST_CONFIG)
    _at_most("characters of labels", len(labels), LONGEST_LABELS + LONGEST_LABEL * consent.most_labels, "most_labels")
    # Each label is in two quotes, so that they are counted without memory for them.
    _at_most("labels", (labels.count('"') - labels.count('\\"')) // 2, consent.most_labels, "most_labels")


def check_invitation(
    consent: Consent, config: Config, num_labels: int, named_by_server: bool, kind: Kind | None
) -> None:
    """Check a server's configuration, before data and model are loaded.

    Args:
        consent: The owner's.
        config: The configuration with the client's own data and model.
        num_labels: C.
        named_by_server: Whether the server names the model.
        kind: The kind of samples in the owner's columns; None if only the data set tells.

    Raises:
        RefusalError: If the owner does not allow it.
    """
    model, data, train = config.model, config.data, config.train
    if named_by_server:
        _check_model(consent, model)
    task = "instructions" if model.task == "instruction" else None if kind is None else TASKS[kind]
    if task is not None and task not in consent.tasks:
        raise not_allowed(f"a task that tasks allows ({', '.join(consent.tasks)})", task)
    if consent.secure and not config.privacy.secure:
        raise not_allowed("secure sums (secure of the consent)", "privacy.secure: false")
    _check_epsilon(consent, config)
    _at_most("epochs (train.epochs)", train.epochs, consent.epochs, "epochs")
    _at_most("for the rank (model.lora.rank)", model.lora.rank, consent.most_rank, "most_rank")
    _at_most("labels", num_labels, consent.most_labels, "most_labels")
    _at_most("samples in a batch (train.batch_size)", train.batch_size, consent.most_batch, "most_batch")
    _at_most("tokens (data.max_length)", data.max_length, consent.most_tokens, "most_tokens")
    _at_most("tokens of an answer (data.answer_tokens)", data.answer_tokens, consent.most_tokens, "most_tokens")
    _at_most("features (model.features)", model.features or 0, MOST_NUMBERS)
    sketch = model.moments if isinstance(model.moments, str) else model.moments.sketch
    _at_most("dimensions (model.moments.sketch)", 0 if isinstance(sketch, str) else sketch, MOST_NUMBERS)
    _at_most("parts (data.clients)", data.clients, MOST_CLIENTS)


def _check_epsilon(consent: Consent, config: Config) -> None:
    """Check what a run promises under differential privacy."""
    most, privacy = consent.epsilon, config.privacy
    if most is None:
        return
    if privacy.epsilon is None or privacy.epsilon > most or privacy.delta > consent.delta:
        found = "none" if privacy.epsilon is None else f"ε={privacy.epsilon:g} at δ={privacy.delta:g}"
        raise not_allowed(
            f"differential privacy with ε of at most {most:g} at δ of at most {consent.delta:g} (epsilon and delta of "
            "the consent)",
            found,
        )
    if consent.ledger is not None and privacy.unit != "sample":
        raise not_allowed("single samples to be protected, which a ledger can count", f"privacy.unit={privacy.unit}")


def _check_model(consent: Consent, model: ModelConfig) -> None:
    """Check a model that a server names, before any file of it is loaded."""
    if consent.models is not None:
        if not any(fnmatchcase(model.name, pattern) for pattern in consent.models):
            raise not_allowed(f"a model that models allows ({', '.join(consent.models)})", model.name)
    elif not model.name.startswith(embedded.PREFIX) and cached_commit(model.name, model.revision) is None:
        raise not_allowed(
            "an embedded model, or one that is on this machine already",
            f"{model.name}. To let it be downloaded, start the client with --models {model.name}",
        )


def check_download(consent: Consent, payload: bytes) -> None:
    """Check the bytes of a message before it is read.

    Raises:
        RefusalError: If there are too many.
    """
    _at_most("bytes in a message", len(payload), consent.download, "download")


def not_allowed(expected: str, found: object) -> RefusalError:
    """Return the refusal of what an owner does not allow."""
    return RefusalError(
        f"expected a server that asks for {expected}, as this client's owner allows; found {found}", "not allowed"
    )


def _at_most(what: str, found: int, most: int, key: str | None = None) -> None:
    if found > most:
        also = "" if key is None else f" ({key} of the consent)"
        raise not_allowed(f"at most {most} {what}{also}", found)


def described(consent: Consent) -> list[str]:
    """Return an owner's consent as lines: what is allowed, and what is refused."""
    budget = {key: limit for key, limit in consent.budget.model_dump().items() if limit is not None}
    named = {key: column if isinstance(column, str) else list(column) for key, column in consent.columns.items()}
    allowed = [
        f"columns: {json.dumps(named)}"
        if named
        else "columns: those that their names and values show; the server names none",
        "labels: all"
        if consent.labels is None
        else f"labels: {', '.join(consent.labels)}; samples of others stay unused",
        f"budget: {json.dumps(budget)}"
        if budget
        else "budget: four fifths of the memory that is free with the model loaded",
        f"tasks: {', '.join(consent.tasks)}; models: "
        + ("embedded, or on this machine already" if consent.models is None else ", ".join(consent.models)),
        f"at most {consent.epochs} epochs, {consent.download} bytes in a message, rank {consent.most_rank}, "
        f"{consent.most_labels} labels, {consent.most_batch} samples in a batch, {consent.most_tokens} tokens each",
    ]
    if consent.secure:
        allowed.append("only runs with secure sums")
    if consent.epsilon is not None:
        over = "" if consent.ledger is None else f", together with all that is in {consent.ledger}"
        allowed.append(
            f"only runs under differential privacy, ε of at most {consent.epsilon:g} at δ of at most "
            f"{consent.delta:g}{over}"
        )
    if consent.least > 3 or consent.trusted is not None:
        whom = "" if consent.trusted is None else f", of those whose keys are in {consent.trusted}"
        allowed.append(f"secure sums over {consent.least} clients or more{whom}")
    but = (
        f"; unless sums are secure, without classes of fewer than {consent.least_per_class} samples, and with second "
        f"moments over more samples than {consent.least_for_moments} alone"
    )
    allowed.append(f"head statistics: {f'allowed{but}' if consent.statistics else 'refused'}")
    allowed.append(f"Fisher scores: {'allowed' if consent.scores else 'refused'}")
    return [*allowed, "everything beyond is refused by a code, and details stay in this client's log"]
