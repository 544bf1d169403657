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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedhello import embedded
from fedhello.config.messages import sentence
from fedhello.errors import ConfigError, ModelError
from fedhello.network.processes import end_with_parent
from fedhello.network.registry import DeclaredBudget
from fedhello.notes import show_notes

if TYPE_CHECKING:
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
        columns: Role of a column, ``text``, ``label``, …, → its name, if it differs from the server's.
        budget: The limits, of ``blocks``, ``rank``, ``memory``, ``upload`` (bytes) and ``seconds``.

    Raises:
        ConfigError: If there are no data, or the name or the budget is not valid.
    """

    name: str
    data: str | None = None
    part: int | None = None
    model: str | None = None
    device: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data is None and self.part is None:
            raise ConfigError("expected data (--data), this client's own samples; found none")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ConfigError(
                "expected the client's name (--name) to be letters, digits, dots, underscores and hyphens, at most 64; "
                f"found {self.name!r}"
            )
        try:
            DeclaredBudget.model_validate(dict(self.budget))
        except ValidationError as error:
            raise ConfigError(sentence(error, DeclaredBudget, "budget.")) from error


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
        FedhelloError: Of the matching kind, if they do not fit.
    """
    import numpy as np

    from fedhello.client.cost_model import batch_shapes
    from fedhello.client.memory import return_memory_at_once
    from fedhello.config.settings import statistics_settings, training_settings
    from fedhello.methods import METHODS
    from fedhello.network.registry import ClientInfo, count_shapes
    from fedhello.network.worker import Prepared
    from fedhello.setup.encoding import longest_answer
    from fedhello.setup.training import on_device

    config = _own_config(options, raw)
    samples, model, classes = _part(options, config, labels) if options.part is not None else _own(config, labels)
    method = METHODS[config.method.name].bind(**config.method.options)
    settings, notes = on_device(training_settings(config), config.train.autocast, method, model.device)
    for note in notes:
        _say(f"note: {note}")
    budget = DeclaredBudget(**(options.budget or _tier_of_part(options, config) or _free_memory(model.device)))
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
    facts = ClientInfo(
        name=options.name,
        samples=len(samples),
        classes=tuple(classes),
        widest=widest,
        batches=count_shapes(batches),
        budget=budget,
        speed=_speed(model, settings, longest_answer(samples, np.arange(len(samples)))),
        busy=0.0,
    )
    _say(_described(facts))
    return Prepared(model, samples, settings, facts, config.run.seed, initial, statistics_settings(config))


def _own_config(options: ClientOptions, raw: Mapping[str, Any]) -> Any:
    """Return the server's configuration with this client's model, data, columns and device.

    Raises:
        ModelError: If the server names a model by a path.
        ConfigError: If it names data by a path, or the configuration is not one.
    """
    from fedhello.config.load import parse_config

    raw = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
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
        # A client trains on all its samples; the server's own splits do not apply to them.
        data |= {"partition": {"kind": "iid"}, "validation": 0.1, "test": 0.1, "split": None}
        data |= {"samples": None, "held_out_samples": None}
    elif any(isinstance(data.get(part), str) for part in ("validation", "test", "public")):
        raise ConfigError("expected shares in data.validation, data.test and data.public for --part; found names")
    data |= options.columns
    run["device"] = options.device
    return parse_config(raw)


def _is_public(name: str) -> bool:
    """Whether a name is an embedded one or a hub id, and not a path on this machine."""
    from fedhello.data.hub import is_hub_id

    return name.startswith(embedded.PREFIX) or (is_hub_id(name) and not Path(name).exists())


def _own(config: Any, labels: Sequence[str]) -> tuple[Any, Any, list[int]]:
    """Return a client's own samples, the model, and the classes that occur."""
    from fedhello.config.settings import data_settings, model_settings
    from fedhello.setup.data import load_data
    from fedhello.setup.encoding import MODEL_KINDS, encode
    from fedhello.setup.model import load_model

    data = load_data(data_settings(config.data), labels)
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

    budget = {key: node_config[key] for key in ("blocks", "rank", "upload", "seconds") if key in node_config}
    if "memory" in node_config:
        budget["memory"] = parse_bytes(str(node_config["memory"]))
    part = node_config.get("part")
    data = node_config.get("data")
    options = ClientOptions(
        name=str(node_config.get("name") or default_name(data and str(data), part, None)),
        data=data and str(data),
        part=None if part is None else int(part),
        model=str(node_config["model"]) if "model" in node_config else None,
        budget=budget,
    )
    return Worker(lambda raw, labels: prepare_client(options, raw, labels), watched=False)


def parse_bytes(text: str) -> int:
    """Return a number of bytes from text with a unit.

    Raises:
        ConfigError: If they are none.
    """
    from pydantic import TypeAdapter

    from fedhello.config.units import Bytes

    try:
        return TypeAdapter(Bytes).validate_python(text)
    except ValidationError:
        raise ConfigError(f"expected bytes with a unit, such as 300MB or 4GB; found {text!r}") from None


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
    options = ClientOptions(**json.loads(raw))
    worker = Worker(lambda config, labels: prepare_client(options, config, labels))
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
