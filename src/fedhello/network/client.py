"""A client: its options, its preparation from the server's configuration, and the process that trains.

``fedhello.network.supervisor`` keeps that process running.
"""

import hashlib
import json
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedhello import embedded
from fedhello.errors import ConfigError, DataError, ModelError
from fedhello.network.consent import DEFAULT_CONSENT, Consent, check_invitation, read_consent
from fedhello.network.own_data import own_source
from fedhello.network.processes import end_with_parent
from fedhello.network.registry import DeclaredBudget
from fedhello.notes import show_notes
from fedhello.types import Budget

if TYPE_CHECKING:
    from fedhello.data.dataset import Columns, Kind
    from fedhello.data.tables import Source
    from fedhello.network.worker import Prepared

SHARE_OF_FREE = 0.8
"""Share of the free memory, after loading the model, that is the budget of a client without one."""

MOST_BATCHES = 2**22
"""The most batches in a round that a client plans for."""


@dataclass(frozen=True)
class ClientOptions:
    """The options of a client.

    Attributes:
        name: Its stable name; letters, digits, dot, underscore and hyphen, at most 64.
        data: A file, a folder, an embedded data set or a hub id with its own samples; with ``part`` the whole data set.
        part: Take this part of the data set that the configuration splits over its clients.
        model: Where the foundation model is; None takes the server's name for it, if that is no path.
        device: A value of ``run.device``.
        consent: What the owner of the data consents to, with the columns and the budget.
        key: The file of the client's private key; None without one.

    Raises:
        ConfigError: If there are no data, or the name is not valid.
    """

    name: str
    data: str | None = None
    part: int | None = None
    model: str | None = None
    device: str = "auto"
    consent: Consent = DEFAULT_CONSENT
    key: str | None = None

    def __post_init__(self) -> None:
        if self.data is None and self.part is None:
            raise ConfigError("expected data (--data), this client's own samples; found none")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ConfigError(
                "expected the client's name (--name) to be letters, digits, dots, underscores and hyphens, at most 64; "
                f"found {self.name!r}"
            )

    def to_json(self) -> str:
        """Return the options as text for another process."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "consent"}
        return json.dumps({**own, "consent": self.consent.model_dump_json(exclude_unset=True)})

    @classmethod
    def from_json(cls, text: str) -> "ClientOptions":
        """Return the options in the text of ``to_json``."""
        found = json.loads(text)
        return cls(**found | {"consent": Consent.model_validate_json(found["consent"])})


def default_name(data: str | None, part: int | None, key: Path | None) -> str:
    """Return a name that is the same at every start: from the key, the part, or the machine and the data."""
    if key is not None:
        return key.name
    if part is not None:
        return f"part-{part:03d}"
    place = hashlib.sha256(str(data and Path(data).resolve()).encode()).hexdigest()[:8]
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:48] + "-" + place


def prepare_client(options: ClientOptions, raw: Mapping[str, Any], labels: Sequence[str]) -> "Prepared":
    """Prepare a client from the server's configuration and its own options.

    Raises:
        RefusalError: If the owner does not consent to what the configuration asks for.
        FedhelloError: Of the matching kind, if they do not fit.
    """
    import numpy as np

    from fedhello.client.cost_model import batch_shapes
    from fedhello.client.memory import return_memory_at_once
    from fedhello.config.settings import head_settings, statistics_settings, training_settings
    from fedhello.methods import METHODS
    from fedhello.network.limits import Limits
    from fedhello.network.registry import ClientInfo, count_shapes
    from fedhello.network.worker import Prepared
    from fedhello.setup.encoding import longest_answer
    from fedhello.setup.training import on_device, step_costs

    consent = options.consent
    config, source = _own_config(options, raw, len(labels))
    samples, model, classes = (
        _part(options, config, labels) if source is None else _own(consent, config, labels, source)
    )
    method = METHODS[config.method.name].bind(**config.method.options)
    settings, notes = on_device(training_settings(config), config.train.autocast, method, model.device)
    for note in notes:
        _say(f"note: {note}")
    own, tier = consent.budget, _tier_of_part(options, config)
    if own == DeclaredBudget() and not tier:
        own = DeclaredBudget(**_free_memory(model.device))
    budget = DeclaredBudget(**tier) if own == DeclaredBudget() else own
    settings = replace(settings, measure_process=budget.memory is not None)
    if settings.measure_process:
        return_memory_at_once()
    initial = model.read(model.block_of)
    most = -(-len(samples) // config.train.batch_size) * config.train.epochs
    if most > MOST_BATCHES:
        raise ConfigError(
            f"expected a server that asks for at most {MOST_BATCHES} batches per round; with its train.epochs, "
            f"{config.train.epochs}, and train.batch_size, {config.train.batch_size}, they would be {most}"
        )
    widest, batches = batch_shapes(samples.lengths(), config.train.batch_size, config.train.epochs)
    answer = longest_answer(samples, np.arange(len(samples)))
    limited = () if own == DeclaredBudget() else (Budget(**own.model_dump()),)
    costs = (
        step_costs(model, settings, head_settings(config.model), limited, config.train.activations, answer)
        if limited
        else None
    )
    facts = ClientInfo(
        name=options.name,
        samples=len(samples),
        classes=tuple(classes),
        widest=widest,
        batches=count_shapes(batches),
        budget=budget,
        speed=_speed(model, settings, answer),
        busy=0.0,
    )
    _say(_described(facts))
    limits = Limits(
        consent,
        model,
        facts.as_budget() if limited else None,
        None if costs is None else costs.at(widest, batches),
        widest[1],
        answer,
    )
    statistics, seed = statistics_settings(config), config.run.seed
    secure = _secure(config, model, facts, method) if config.privacy.secure else None
    return Prepared(model, samples, settings, facts, seed, initial, statistics, secure, limits)


def _secure(config: Any, model: Any, facts: Any, method: Any) -> Any:
    """Return what this client knows of a run with secure sums: its own part of what server and clients agree on."""
    from fedhello.config.settings import secure_settings
    from fedhello.model.head import is_shared
    from fedhello.privacy.secure import SecureRound
    from fedhello.setup.prepare import empty_federation
    from fedhello.types import Client

    own = Client(0, 0, facts.as_budget(), facts.samples, facts.classes)
    federation = replace(empty_federation(config, model), clients=(own,), tiers=(own.budget,))
    adapter = model.snapshot(is_shared(config.model.head))
    return SecureRound(method.aggregate, federation, adapter, secure_settings(config.privacy))


def _own_config(options: ClientOptions, raw: Mapping[str, Any], num_labels: int) -> tuple[Any, "Source | None"]:
    """Return the server's configuration with this client's model, data, columns and device, and the data's source.

    The source is None for a part of the configured data set, whose columns the configuration names.

    Raises:
        ModelError: If the server names a model by a path.
        ConfigError: If it names data by a path, or the configuration is not one.
        RefusalError: If the owner does not consent to it.
    """
    from fedhello.config.load import parse_config

    raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    asked, source, kind = _kind_asked(raw.get("data", {})), None, None
    model, data, run = (raw.setdefault(key, {}) for key in ("model", "data", "run"))
    if options.model is not None:
        model |= {"name": options.model, "revision": None}
    elif not _is_public(str(model.get("name"))):
        raise ModelError(
            "expected the model's folder on this client (--model), since the server's model is a path: "
            f"{model.get('name')!r}"
        )
    if options.data is not None:
        data["name"] = options.data
    elif not _is_public(str(data.get("name"))):
        raise ConfigError("expected data (--data) with a part (--part), since the server's data set is a path there")
    if options.part is None:
        source, columns = own_source(str(options.data), options.consent.columns)
        data |= _column_keys(columns)
        kind = columns.kind
        # A client trains on all its samples; the server's own splits do not apply to them.
        data |= {"partition": {"kind": "iid"}, "validation": 0.1, "test": 0.1, "split": None}
        data |= {"samples": None, "held_out_samples": None}
    elif any(isinstance(data.get(part), str) for part in ("validation", "test", "public")):
        raise ConfigError("expected shares in data.validation, data.test and data.public for --part; found names")
    else:
        data |= {role: name if isinstance(name, str) else list(name) for role, name in options.consent.columns.items()}
    run["device"] = options.device
    config = parse_config(raw)
    check_invitation(options.consent, config, num_labels, options.model is None, kind or config.data.kind)
    instructions = config.model.task == "instruction"
    if kind is not None and ((asked or kind) != kind or instructions != (kind == "instructions")):
        raise DataError(
            f"expected {'instructions' if instructions else asked}, as in the federation; found {kind} in the columns "
            "that this client's owner named or that were found. Name the columns (--text, --label, --image, --prompt, "
            "--response)."
        )
    return config, source


def _kind_asked(data: object) -> "Kind | None":
    """Return the kind of samples that the server's columns have; None if only its data set tells."""
    from fedhello.config.schema import DataConfig

    try:
        return DataConfig.model_validate(data).kind
    except ValidationError:
        return None  # the error is raised when the configuration is read


def _column_keys(columns: "Columns") -> dict[str, Any]:
    """Return all keys of ``data`` that name columns, so that none of the server's is left."""
    text = columns.text if isinstance(columns.text, str) else list(columns.text)
    named = {"text": text, "label": columns.label, "image": columns.image, "tensor": columns.tensor}
    return named | {"prompt": columns.prompt, "response": columns.response}


def _is_public(name: str) -> bool:
    """Whether a name is an embedded one or a hub id, and not a path on this machine."""
    from fedhello.data.hub import is_hub_id

    return name.startswith(embedded.PREFIX) or (is_hub_id(name) and not Path(name).exists())


def _own(consent: Consent, config: Any, labels: Sequence[str], source: "Source") -> tuple[Any, Any, list[int]]:
    """Return a client's own samples with labels that its owner allows, the model, and the classes that occur."""
    from fedhello.config.settings import data_settings, model_settings
    from fedhello.setup.data import load_data
    from fedhello.setup.encoding import MODEL_KINDS, encode
    from fedhello.setup.model import load_model

    data = load_data(data_settings(config.data), labels, source, consent.labels)
    model = load_model(model_settings(config), labels, MODEL_KINDS[data.kind])
    samples, notes = encode(data, model, config.data.max_length, config.data.answer_tokens)
    for note in (*data.notes, *notes):
        _say(f"note: {note}")
    # Categories of instruction data are not classes.
    return samples, model, [] if data.kind == "instructions" else sorted(set(samples.labels.tolist()))


def _part(options: ClientOptions, config: Any, labels: Sequence[str]) -> tuple[Any, Any, list[int]]:
    """Return samples, model and classes for a part of the configured data set."""
    from fedhello.config.settings import data_settings
    from fedhello.setup.data import partition_data
    from fedhello.setup.prepare import load

    loaded = load(config)
    if list(loaded.data.label_names) != list(labels):
        raise ConfigError(
            f"expected the server's classes, {', '.join(labels)}, in {config.data.name}; found "
            f"{', '.join(loaded.data.label_names)}"
        )
    parts = partition_data(data_settings(config.data), loaded.data, loaded.held_out, config.run.seed)
    if not 0 <= (options.part or 0) < len(parts):
        raise ConfigError(f"expected the part (--part) within 0 … {len(parts) - 1}; found {options.part}")
    samples = loaded.samples.subset(parts[options.part or 0])
    return samples, loaded.model, sorted(set(samples.labels.tolist()))


def _tier_of_part(options: ClientOptions, config: Any) -> dict[str, Any]:
    """Return the budget that the configuration gives to a part, as in a run on one machine."""
    from fedhello.setup.clients import assign_tiers

    if options.part is None:
        return {}
    tier = assign_tiers(config.data.clients, [tier.share for tier in config.clients.tiers])[options.part]
    limits = config.clients.tiers[tier].budget.limits
    return {key: value for key, value in limits.items() if key != "speed"}


def _free_memory(device: Any) -> dict[str, int]:
    """Return a share of the device's free memory, with the model loaded."""
    import psutil
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return {"memory": int(SHARE_OF_FREE * free)}


def _speed(model: Any, settings: Any, answer: int | None) -> float | None:
    from fedhello.client.calibration import calibrate, measure_speed
    from fedhello.network.registry import SLOWEST_TRAINING

    if model.has_magnitudes:
        return None  # FLOPs of DoRA are not predicted
    autocast = settings.autocast == "bfloat16"
    reached = measure_speed(model, calibrate(model, autocast, ["keep"], answer), autocast, answer)
    if reached < SLOWEST_TRAINING:
        _say(
            f"note: this machine reaches {reached / 1e9:.2g} GFLOP/s now; it reports {SLOWEST_TRAINING / 1e9:g}, the "
            "least that a server accepts, which may not wait long enough"
        )
    return max(reached, SLOWEST_TRAINING)


def _described(facts: Any) -> str:
    from fedhello.formatting import budget_words

    speed = "" if facts.speed is None else f", {facts.speed / 1e9:.0f} GFLOP/s"
    return f"joined as {facts.name}: {facts.samples} samples, budget {budget_words(facts.as_budget())}{speed}"


def cold_worker(node_config: Mapping[str, Any]) -> Any:
    """Return a worker for one message, with the options in ``flower-supernode --node-config``."""
    from fedhello.network.worker import Worker

    limits = ("blocks", "rank", "upload", "seconds", "memory")
    columns = ("text", "label", "image", "prompt", "response")
    more = {
        "budget": {key: node_config[key] for key in limits if key in node_config},
        "columns": {key: str(node_config[key]) for key in columns if key in node_config},
    }
    part = node_config.get("part")
    data = node_config.get("data")
    options = ClientOptions(
        name=str(node_config.get("name") or default_name(data and str(data), part, None)),
        data=data and str(data),
        part=None if part is None else int(part),
        model=str(node_config["model"]) if "model" in node_config else None,
        consent=read_consent(node_config.get("consent"), more),
    )
    return Worker(lambda raw, labels: prepare_client(options, raw, labels), watched=False, consent=options.consent)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _last_words(secret: Path) -> Path:
    return secret.with_name("failure")


def said_by(secret: Path) -> str:
    """Return why the worker started with a secret cannot take part; empty if it gave no reason."""
    file = _last_words(secret)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def main() -> None:
    """Run the worker of a client; arguments: ``OPTIONS PORT SECRET``."""
    end_with_parent()
    show_notes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    from fedhello.network.flower import answered
    from fedhello.network.messages import Address
    from fedhello.network.worker import Worker

    raw, port, secret = sys.argv[1:]
    options = ClientOptions.from_json(raw)
    consent, key = options.consent, options.key
    worker = Worker(lambda config, labels: prepare_client(options, config, labels), consent=consent, key=key)
    answered(
        Address("127.0.0.1", int(port)),
        Path(secret).read_bytes(),
        worker.answer,
        going_on=lambda: worker.ended is None and worker.failure is None,
    )
    if worker.failure is not None:
        _last_words(Path(secret)).write_text(str(worker.failure), encoding="utf-8")
        sys.exit(worker.failure.exit_code)
    _say(f"the run is over: {worker.ended}")


if __name__ == "__main__":
    main()
