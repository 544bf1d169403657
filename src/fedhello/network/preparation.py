"""Prepare a client: a server's configuration with the client's own data, as far as its owner consents."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from fedhello import embedded
from fedhello.client.calibration import calibrate, measure_speed
from fedhello.client.known_costs import Settings, known_costs
from fedhello.client.memory import return_memory_at_once
from fedhello.client.settings import TrainingSettings, moments
from fedhello.config.load import parse_config
from fedhello.config.schema import Config, DataConfig
from fedhello.config.settings import (
    data_settings,
    head_settings,
    model_settings,
    private_rounds,
    private_statistics,
    secure_settings,
    statistics_settings,
    training_settings,
)
from fedhello.costs import KEEP, Costs
from fedhello.data.batches import Samples
from fedhello.data.dataset import Columns, Kind
from fedhello.data.digest import PartDigest, digest_of
from fedhello.data.hub import is_hub_id
from fedhello.data.tables import Source
from fedhello.errors import ConfigError, DataError, ModelError
from fedhello.formatting import budget_words
from fedhello.method import Method
from fedhello.methods import METHODS
from fedhello.model.adapter import LoraModel
from fedhello.model.head import is_shared
from fedhello.model.injection import Admit
from fedhello.model.private_sums import ROUND
from fedhello.model.sources import cached_commit
from fedhello.model.statistics import StatisticsSettings
from fedhello.network.consent import check_invitation
from fedhello.network.limits import Limits, check_adapter
from fedhello.network.options import ClientOptions
from fedhello.network.own_data import own_source
from fedhello.network.own_ledger import own_ledger
from fedhello.network.registry import SLOWEST_TRAINING, ClientInfo, DeclaredBudget, count_shapes
from fedhello.network.stated import Stated, stated_of
from fedhello.network.worker import Prepared
from fedhello.privacy.rounds import anonymous_federation, private_method
from fedhello.privacy.secure import SecureRound
from fedhello.setup.clients import assign_tiers
from fedhello.setup.data import load_data, partition_data
from fedhello.setup.encoding import MODEL_KINDS, encode, longest_answer
from fedhello.setup.federation import empty_federation
from fedhello.setup.machine import available_memory
from fedhello.setup.masking import agreed_round
from fedhello.setup.model import choose_device, load_model
from fedhello.setup.prepare import load
from fedhello.setup.private import check_steps
from fedhello.setup.private_plan import autocast_of, protects_samples
from fedhello.setup.training import on_device, step_costs, with_copies
from fedhello.state import Release
from fedhello.types import Budget, Client

SHARE_OF_FREE = 0.8
"""Share of the free memory that a client uses; after loading the model, it is the budget of a client without one."""

BY_ITSELF = 1
"""Samples that are computed at once where single samples are protected."""


def prepare_client(
    options: ClientOptions, raw: Mapping[str, Any], labels: Sequence[str], kept: Path | None = None
) -> Prepared:
    """Prepare a client from the server's configuration and its own options.

    Args:
        options: The client's own.
        raw: The server's configuration.
        labels: The class names.
        kept: The file of its ledger, for a client without one of its owner's; see ``own_ledger``.

    Raises:
        RefusalError: If the owner does not consent to what the configuration asks for.
        FedhelloError: Of the matching kind, if they do not fit.
    """
    config, source = _own_config(options, raw, len(labels))
    admit = partial(check_adapter, options.consent, free=_free_memory(choose_device(config.run.device)))
    samples, model, classes, digest = (
        _part(options, config, labels, admit) if source is None else _own(options, config, labels, source, admit)
    )
    say("trying out how fast this machine is …")
    row = METHODS[config.method.name]
    on_samples = protects_samples(config, row)
    settings = _settings(config, row, model, samples)
    initial = model.read(model.block_of)
    own, declared = _budgets(options, config, model.device)
    settings = replace(settings, measure_process=declared.memory is not None)
    if on_samples:
        check_steps(model, config.privacy.factors, samples.batch(np.arange(min(2, len(samples)))))
    if settings.measure_process:
        return_memory_at_once()
    answer = longest_answer(samples, np.arange(len(samples)))
    stated = stated_of(config, samples, classes, on_samples)
    facts = ClientInfo(
        name=options.name,
        samples=stated.samples,
        classes=stated.classes,
        widest=(stated.widest[0], stated.widest[1]),
        batches=count_shapes(stated.batches),
        budget=declared,
        speed=_speed(model, settings, answer),
        busy=0.0,
    )
    say(_described(facts))
    limits = Limits(
        options.consent,
        model,
        None if own is None else facts.as_budget(),
        None if own is None else _costs(config, model, settings, own, stated, answer, on_samples),
        stated.widest[1],
        answer,
        moments(settings),
    )
    if on_samples:
        # Each by itself: padding to the longest of a batch would let one sample change the gradients of others, by
        # rounding, which a server's choice of the adapter can blow up.
        settings = replace(settings, batch_size=BY_ITSELF)
    return Prepared(
        model,
        samples,
        settings,
        facts,
        config.run.seed,
        initial,
        _statistics(config, options, owned=source is not None),
        _secure(config, row, model, facts) if config.privacy.secure else None,
        limits,
        private_statistics(config.privacy),
        digest.sha256,
        own_ledger(config, row, options.consent, len(samples), kept),
    )


def _settings(config: Config, row: Method, model: LoraModel, samples: Samples) -> TrainingSettings:
    """Return how this client trains; what was chosen for its device is said."""
    method = row.bind(**config.method.options)
    settings, notes = on_device(training_settings(config), autocast_of(config, row), method, model, samples)
    for note in notes:
        say(f"note: {note}")
    return settings


def _costs(
    config: Config,
    model: LoraModel,
    settings: TrainingSettings,
    budget: DeclaredBudget,
    stated: Stated,
    answer: int | None,
    on_samples: bool,
) -> Costs | None:
    """Return the costs of a round, by which a client keeps to its own budget; None where they are not predicted."""
    budgets = (Budget(**budget.model_dump()),)
    costs = step_costs(model, settings, head_settings(config.model), budgets, config.train.activations, answer)
    if costs is None:
        return None
    return (with_copies(costs, BY_ITSELF) if on_samples else costs).at(stated.widest, stated.batches)


def _statistics(config: Config, options: ClientOptions, owned: bool) -> StatisticsSettings:
    """Return the settings of head statistics; the server has the data of a part, which are not the owner's."""
    found, consent = statistics_settings(config), options.consent
    if not owned or config.privacy.secure:
        return found
    return replace(found, own_least=consent.least_per_class, enough=consent.least_for_moments)


def _own_config(options: ClientOptions, raw: Mapping[str, Any], num_labels: int) -> tuple[Config, Source | None]:
    """Return the server's configuration with this client's model, data, columns and device, and the data's source.

    The source is None for a part of the configured data set, whose columns the configuration names.

    Raises:
        ModelError: If the server names a model by a path.
        ConfigError: If it names data by a path, or the configuration is not one.
        RefusalError: If the owner does not consent to it.
    """
    raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    asked, source, kind = _kind_asked(raw.get("data", {})), None, None
    model, data, run = (raw.setdefault(key, {}) for key in ("model", "data", "run"))
    _name_model(options, model)
    if options.data is not None:
        data["name"] = options.data
    elif not _is_public(str(data.get("name"))):
        raise ConfigError("expected data (--data) with a part (--part), since the server's data set is a path there")
    if options.part is None:
        source, columns = own_source(str(options.data), options.consent.columns, options.encoding)
        data |= _column_keys(columns)
        kind = columns.kind
        # A client trains on all its samples; the server's own splits do not apply to them.
        data |= {"partition": {"kind": "iid"}, "validation": 0.1, "test": 0.1, "split": None}
        data |= {"samples": None, "held_out_samples": None, "encoding": options.encoding}
    elif any(isinstance(data.get(part), str) for part in ("validation", "test", "public")):
        raise ConfigError("expected shares in data.validation, data.test and data.public for --part; found names")
    else:
        data |= {role: name if isinstance(name, str) else list(name) for role, name in options.consent.columns.items()}
        data |= {} if options.encoding is None else {"encoding": options.encoding}
    run |= {"device": options.device, "engine": "flower"}  # whatever it says, what holds over a network is checked
    config = parse_config(raw)
    check_invitation(options.consent, config, num_labels, options.model is None, kind or config.data.kind)
    instructions = config.model.task == "instruction"
    if kind is not None and ((asked or kind) != kind or instructions != (kind == "instructions")):
        raise DataError(
            f"expected {'instructions' if instructions else asked}, as in the federation; found {kind} in the columns "
            "that this client's owner named or that were found. Name the columns (--text, --label, --image, --prompt, "
            "--response)."
        )
    if config.privacy.epsilon is not None and source is not None:
        # Else the number of samples that are left would tell a server which of them repeat, or are broken.
        known = config.data.model_copy(update={"deduplicate": True, "on_bad_image": "error"})
        config = config.model_copy(update={"data": known})
    return config, source


def _name_model(options: ClientOptions, model: dict[str, Any]) -> None:
    """Put the client's own model into a server's section ``model``, or the commit of the server's that is here already.

    Raises:
        ModelError: If the server names a model by a path, and the client has none of its own.
    """
    name, revision = str(model.get("name")), model.get("revision")
    if options.model is not None:
        model |= {"name": options.model, "revision": None}
    elif not _is_public(name):
        raise ModelError(
            f"expected the model's folder on this client (--model), since the server's model is a path: {name!r}"
        )
    elif options.consent.models is None and is_hub_id(name):  # no newer commit is downloaded
        model["revision"] = cached_commit(name, revision and str(revision)) or revision


def _kind_asked(data: object) -> Kind | None:
    """Return the kind of samples that the server's columns have; None if only its data set tells."""
    try:
        return DataConfig.model_validate(data).kind
    except ValidationError:
        return None  # the error is raised when the configuration is read


def _column_keys(columns: Columns) -> dict[str, Any]:
    """Return all keys of ``data`` that name columns, so that none of the server's is left."""
    text = columns.text if isinstance(columns.text, str) else list(columns.text)
    named = {"text": text, "label": columns.label, "image": columns.image, "tensor": columns.tensor}
    return named | {"prompt": columns.prompt, "response": columns.response}


def _is_public(name: str) -> bool:
    """Whether a name is an embedded one or a hub id, and not a path on this machine."""
    return name.startswith(embedded.PREFIX) or (is_hub_id(name) and not Path(name).exists())


def _own(
    options: ClientOptions, config: Config, labels: Sequence[str], source: Source, admit: Admit
) -> tuple[Samples, LoraModel, list[int], PartDigest]:
    """Return a client's own samples with labels that its owner allows, the model, and the classes that occur."""
    say(f"reading {config.data.name} …")
    data = load_data(data_settings(config.data), labels, source, options.consent.labels)
    say(f"{len(data)} samples; loading the model {config.model.name} …")
    model = load_model(model_settings(config), labels, MODEL_KINDS[data.kind], admit=admit)
    samples, notes = encode(data, model, config.data.max_length, config.data.answer_tokens)
    for note in (*data.notes, *notes):
        say(f"note: {note}")
    # Categories of instruction data are not classes.
    classes = [] if data.kind == "instructions" else sorted(set(samples.labels.tolist()))
    return samples, model, classes, digest_of(data, np.arange(len(data)))


def _part(
    options: ClientOptions, config: Config, labels: Sequence[str], admit: Admit
) -> tuple[Samples, LoraModel, list[int], PartDigest]:
    """Return samples, model and classes for a part of the configured data set."""
    say(f"reading part {options.part} of {config.data.name} and loading the model {config.model.name} …")
    loaded = load(config, admit=admit)
    if list(loaded.data.label_names) != list(labels):
        raise ConfigError(
            f"expected the server's classes, {', '.join(labels)}, in {config.data.name}; found "
            f"{', '.join(loaded.data.label_names)}"
        )
    parts = partition_data(data_settings(config.data), loaded.data, loaded.held_out, config.run.seed)
    if not 0 <= (options.part or 0) < len(parts):
        raise ConfigError(f"expected the part (--part) within 0 … {len(parts) - 1}; found {options.part}")
    part = parts[options.part or 0]
    samples = loaded.samples.subset(part)
    return samples, loaded.model, sorted(set(samples.labels.tolist())), digest_of(loaded.data, part)


def _budgets(
    options: ClientOptions, config: Config, device: torch.device
) -> tuple[DeclaredBudget | None, DeclaredBudget]:
    """Return the budget that the client itself keeps to, and the one that it declares.

    They differ for a part whose owner states none: it declares that of its tier, as in a run on one machine.
    """
    own = options.consent.budget
    if own != DeclaredBudget():
        return own, own
    tier = {} if options.part is None else _tier_of_part(options.part, config)
    if tier:
        return None, DeclaredBudget(**tier)
    free = DeclaredBudget(memory=_free_memory(device))
    return free, free


def _tier_of_part(part: int, config: Config) -> dict[str, Any]:
    """Return the budget that the configuration gives to a part."""
    tier = assign_tiers(config.data.clients, [tier.share for tier in config.clients.tiers])[part]
    limits = config.clients.tiers[tier].budget.limits
    return {key: value for key, value in limits.items() if key != "speed"}


def _free_memory(device: torch.device) -> int:
    """Return the bytes of a device's free memory that a client uses at most."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return int(SHARE_OF_FREE * free)


def _secure(config: Config, row: Method, model: LoraModel, facts: ClientInfo) -> SecureRound:
    """Return what this client knows of a run with secure sums: its own part of what server and clients agree on."""
    own = Client(0, 0, facts.as_budget(), facts.samples, facts.classes)
    federation = replace(empty_federation(config, model), clients=(own,), tiers=(own.budget,))
    method, adapter = row.bind(**config.method.options), model.snapshot(is_shared(config.model.head))
    on_samples = protects_samples(config, row)
    if config.privacy.epsilon is not None:
        federation = anonymous_federation(federation)
        if not on_samples:  # only the server adds the noise
            method = private_method(method, private_rounds(config, Release(ROUND, noise=1.0), rate=1.0, first_clip=1.0))
    # The server states the most samples with each sum.
    agreed = agreed_round(method.aggregate, federation, adapter, secure_settings(config.privacy), max_share=None)
    return replace(agreed, losses=not on_samples)


def _speed(model: LoraModel, settings: TrainingSettings, answer: int | None) -> float | None:
    autocast = settings.autocast == "bfloat16"
    how: Settings = (autocast, (KEEP,), answer, True)
    reached = measure_speed(model, known_costs(model, how, lambda: calibrate(model, *how)), autocast, answer)
    if reached < SLOWEST_TRAINING:
        say(
            f"note: this machine reaches {reached / 1e9:.2g} GFLOP/s now; it reports {SLOWEST_TRAINING / 1e9:g}, the "
            "least that a server accepts, which may not wait long enough"
        )
    return max(reached, SLOWEST_TRAINING)


def say(line: str) -> None:
    """Write a line on standard error at once, for the client's owner."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _described(facts: ClientInfo) -> str:
    speed = "" if facts.speed is None else f", {facts.speed / 1e9:.0f} GFLOP/s"
    return f"joined as {facts.name}: {facts.samples} samples, budget {budget_words(facts.as_budget())}{speed}"
