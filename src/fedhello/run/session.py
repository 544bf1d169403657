"""From a configuration to a session: the one place where all parts are put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedhello.allocation.bytes import OPTIONS
from fedhello.client.memory import RESERVE, return_memory_at_once
from fedhello.client.prediction import StepCosts, calibrate
from fedhello.client.training import METRICS, TrainingSettings, bfloat16_pays, moments
from fedhello.data.batches import Examples, tokenise
from fedhello.data.dataset import DataSet
from fedhello.data.partition import label_histogram
from fedhello.engine.local import LocalEngine
from fedhello.engine.wire import upload_bound
from fedhello.errors import ConfigError, ModelError
from fedhello.methods import METHODS, BoundMethod, Method
from fedhello.model.adapter import LoraModel, attach_lora
from fedhello.model.head import is_shared
from fedhello.model.loading import load_classifier, resolve
from fedhello.randomness import integer_seed
from fedhello.run.config import Config, DataConfig, TierConfig
from fedhello.run.data import load_data, partition_data, public_data, split_data
from fedhello.run.federation import federate, with_speeds
from fedhello.types import KEEP, Federation, Policy, Situation
from fedhello.words import budget_words


@dataclass(frozen=True)
class ServerData:
    """What the server holds; disjoint from every client's data and from each other."""

    validation: Examples
    test: Examples
    proxy: Examples
    public: Examples


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: everything loaded and checked, nothing trained or written.

    Attributes:
        config: Fully resolved.
        labels: Names of the classes.
        model: The one model in memory.
        initial: The values of its adapter and head when it was prepared.
        federation: The clients that can be invited.
        method: With its options.
        engine: Reaches the clients.
        server: The server's data.
        histogram: Samples of each client by class, integers, shape (K, C).
        tier_of: Tier of each client, by id.
        notes: What a user should know before the start.
    """

    config: Config
    labels: tuple[str, ...]
    model: LoraModel
    initial: Mapping[str, Tensor]
    federation: Federation
    method: BoundMethod
    engine: LocalEngine
    server: ServerData
    histogram: np.ndarray
    tier_of: tuple[int, ...]
    notes: tuple[str, ...]


def prepare(config: Config) -> Session:
    """Load, check and put together everything a run needs.

    Raises:
        FedhelloError: Of the kind that fits, if anything does not fit; nothing has been written then.
    """
    method = METHODS[config.method.name]
    _check_server_data(config.data, method)
    data = load_data(config.data)
    model = load_model(config, data.label_names)
    examples, cut = _encoded(config, data, model)
    notes = [*data.notes, *_notes(config, cut, len(examples), method.uses_scores)]

    held_out = split_data(config.data, data)
    found = public_data(config.data, data, held_out)
    public = examples.subset(held_out.public) if found is None else _encoded(config, found, model)[0]
    parts = partition_data(config.data, data, held_out, config.run.seed)
    bound = method.bind(**config.method.options)
    settings = replace(_training_settings(config, model.device, notes), **bound.local)
    if method.pooled:
        settings = replace(settings, samples=_samples_per_round(config, parts))
        parts = [np.concatenate(parts)]
    if settings.measure_process:
        return_memory_at_once()
    costs = _step_costs(config, model, settings)
    config = with_speeds(config, model, costs, settings.autocast == "bfloat16", notes)
    lengths = [examples.lengths()[part] for part in parts]
    federation, tier_of = federate(
        _pooled(config) if method.pooled else config, parts, data.labels, lengths, model, costs, notes
    )
    _check_method(method, bound, federation, model, notes)

    engine = LocalEngine(
        model=model,
        federation=federation,
        data={k: examples.subset(part) for k, part in enumerate(parts)},
        settings=settings,
        personal_heads={} if config.model.head == "local" else None,
        costs=costs,
    )
    server = ServerData(
        validation=examples.subset(held_out.validation),
        test=examples.subset(held_out.test),
        proxy=examples.subset(held_out.proxy),
        public=public,
    )
    return Session(
        config=config,
        labels=data.label_names,
        model=model,
        initial=model.read(model.block_of),
        federation=federation,
        method=bound,
        engine=engine,
        server=server,
        histogram=label_histogram(parts, data.labels, len(data.label_names)),
        tier_of=tier_of,
        notes=tuple(notes),
    )


def _check_server_data(config: DataConfig, method: Method) -> None:
    """Check that the server is to keep the data that the method needs there.

    Raises:
        ConfigError: If not.
    """
    if method.distils and not config.public:
        raise ConfigError(
            f"expected data.public, a number of samples to hold out or a data set, since {method.name} lets models "
            "learn from each other on a public set; found 0. Set data.public=200, for example."
        )
    if method.uses_scores and not config.proxy:
        raise ConfigError(f"expected data.proxy > 0, since {method.name} computes Fisher scores on it; found 0")


def _check_method(
    method: Method, bound: BoundMethod, federation: Federation, model: LoraModel, notes: list[str]
) -> None:
    """Check that the method can run here, and note the tiers whose clients it lets sit out.

    Raises:
        ConfigError: If it cannot, or nobody could take part.
    """
    complaint = method.check(federation, model.snapshot(share_head=False))
    if complaint is not None:
        raise ConfigError(complaint)
    one_of = {client.tier: client for client in federation.clients}
    equal = (1.0,) * federation.blocks
    out = [g for g, k in sorted(one_of.items()) if bound.allocate(Situation(k, federation, 0, equal)) is None]
    if not out:
        return
    budgets = " | ".join(budget_words(federation.tiers[g]) for g in out)
    who = f"clients of tiers {', '.join(map(str, out))} ({budgets}) sit out, since {method.name} asks for more"
    if len(out) == len(one_of):
        raise ConfigError(f"expected a tier that can afford {method.name}; all {who} than any affords. Raise a budget.")
    notes.append(f"{who} than they can afford")


def _samples_per_round(config: Config, parts: Sequence[np.ndarray]) -> int:
    """Return how many samples the clients of a round see in an epoch, on average."""
    return round(config.train.clients_per_round * sum(map(len, parts)) / len(parts))


def _pooled(config: Config) -> Config:
    """Return the configuration of one client that can afford everything."""
    tier = TierConfig(share=1.0, blocks=None, rank=config.model.lora.rank)
    return config.model_copy(
        update={
            "clients": config.clients.model_copy(update={"tiers": [tier]}),
            "train": config.train.model_copy(update={"clients_per_round": 1}),
        }
    )


def _encoded(config: Config, data: DataSet, model: LoraModel) -> tuple[Examples, int]:
    """Return the samples as the model takes them, and how many had to be cut."""
    if data.kind != "texts":
        raise ConfigError(
            f"expected single texts to classify; {config.data.name} holds {data.kind}, which are not supported yet"
        )
    longest = model.longest_input
    if longest is not None and config.data.max_length > longest:
        raise ConfigError(
            f"expected data.max_length to be at most {longest}, the positions of {config.model.name}; "
            f"found {config.data.max_length}"
        )
    if model.tokenizer.pad_token_id is None:
        raise ModelError(f"expected the tokenizer of {config.model.name} to have a padding token; it has none")
    texts = [text for text in data.inputs if isinstance(text, str)]
    return tokenise(texts, data.labels, model.tokenizer, config.data.max_length)


def _notes(config: Config, cut: int, samples: int, uses_scores: bool) -> list[str]:
    notes = []
    if cut:
        notes.append(f"{cut} of {samples} texts were cut to data.max_length, {config.data.max_length} tokens")
    if uses_scores and config.model.head == "local":
        notes.append("Fisher scores are taken through the initial head, since each client keeps its own")
    return notes


def load_model(config: Config, labels: Sequence[str]) -> LoraModel:
    """Load the configured foundation model with a fresh adapter and head, on its device.

    Raises:
        MissingExtraError: If an embedded model is not installed.
        ModelError: If it cannot be loaded, verified or understood.
    """
    source = resolve(config.model.name, config.model.revision)
    base = load_classifier(source, labels, integer_seed(config.run.seed, "head"))
    lora = config.model.lora
    model = attach_lora(
        base,
        classes=len(labels),
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=integer_seed(config.run.seed, "lora"),
    )
    model.module.to(_device(config.run.device))
    return model


def _step_costs(config: Config, model: LoraModel, settings: TrainingSettings) -> StepCosts | None:
    """Calibrate the model, unless nothing is to be predicted."""
    policies = _used_policies(config, model)
    if not config.train.measure_memory and all(tier.budget.only_counts for tier in config.clients.tiers):
        return None
    shared, frozen = is_shared(config.model.head), config.model.head == "frozen"
    block_upload, fixed_upload = upload_bound(model.snapshot(shared), METRICS)
    costs = calibrate(model, autocast=settings.autocast == "bfloat16", policies=policies)
    return replace(
        costs,
        head_bytes=0 if frozen else costs.head_bytes,
        head_shared=shared,
        moments=moments(settings),
        reserve=RESERVE,
        block_upload=block_upload,
        fixed_upload=fixed_upload,
        rank=config.model.lora.rank,
    )


def _used_policies(config: Config, model: LoraModel) -> list[Policy]:
    """Return the activation policies that allocations may use."""
    rule = config.train.activations
    if rule == "auto" and all(tier.budget.only_counts for tier in config.clients.tiers):
        return [KEEP]  # nothing asks for less memory
    used: set[Policy] = {KEEP, *OPTIONS[rule]["trained"], *OPTIONS[rule]["frozen"]}
    if "recompute" in used and not model.allows_recomputation:
        raise ModelError(
            f"expected train.activations to be keep or compress, since {config.model.name} forbids recomputation "
            f"(supports_gradient_checkpointing is false); found {rule}"
        )
    return sorted(used)


def _training_settings(config: Config, device: torch.device, notes: list[str]) -> TrainingSettings:
    train = config.train
    autocast = train.autocast
    if autocast == "auto":
        autocast = "bfloat16" if bfloat16_pays(device, train.batch_size) else "none"
        if autocast == "bfloat16":
            notes.append(
                "training and evaluation run in bfloat16 autocast, which is faster here; train.autocast=none keeps "
                "float32"
            )
    return TrainingSettings(
        rounds=train.rounds,
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimizer=train.optimizer,
        lr=train.lr,
        lr_schedule=train.lr_schedule,
        lr_decay=train.lr_decay,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        loss=train.loss,
        autocast=autocast,
        measure_memory=train.measure_memory,
        measure_process=any(tier.memory is not None for tier in config.clients.tiers),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"expected run.device to be auto, cpu or an available device; {name!r}: {reason}") from error
    return device
