"""From a configuration to a session: the one place where all parts are put together."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedhello.aggregation.control import Distance, with_control_variates
from fedhello.aggregation.robust import defended
from fedhello.aggregation.server import with_server_step
from fedhello.allocation.geometric import chosen_pattern
from fedhello.allocation.planner import OPTIONS
from fedhello.client.cost_model import Peak, StepCosts, calibrate
from fedhello.client.memory import RESERVE, return_memory_at_once
from fedhello.client.scoring import calibrate_scoring
from fedhello.client.training import (
    METRICS,
    TrainingSettings,
    bfloat16_pays,
    learning_rate,
    moments,
    rate_factor,
    steps_of,
)
from fedhello.config.schema import Config, DataConfig, TierConfig, rate_of, with_choices
from fedhello.data.batches import Samples
from fedhello.data.dataset import DataSet, Kind
from fedhello.data.partition import label_histogram
from fedhello.data.split import Split
from fedhello.engine.local import LocalEngine
from fedhello.engine.protocol import Engine
from fedhello.engine.wire import upload_bound
from fedhello.errors import ConfigError, ModelError
from fedhello.formatting import budget_words
from fedhello.methods import METHODS, BoundMethod, Method, with_fixed_head
from fedhello.model.adapter import LoraModel, attach_lora
from fedhello.model.head import SHRINKAGES, family, is_shared
from fedhello.model.loading import CAUSAL_LM, load_foundation, resolve
from fedhello.model.loading import Kind as ModelKind
from fedhello.model.statistics import DEFAULT_STATISTICS, Moments, StatisticsSettings
from fedhello.randomness import generator, integer_seed
from fedhello.runs.drift import DriftCompensation
from fedhello.runs.validation import ValidationLosses
from fedhello.setup.clients import federate, with_speeds
from fedhello.setup.data import load_data, partition_data, public_data, split_data
from fedhello.setup.encoding import MODEL_KINDS, by_domain, cut_prompts, encode, longest_answer, questions
from fedhello.types import KEEP, Adapter, Allocation, Federation, Policy, Situation


@dataclass(frozen=True)
class ServerData:
    """What the server holds; disjoint from every client's data and from each other.

    Attributes:
        validation: For choosing.
        test: For reporting.
        proxy: For Fisher scores.
        public: For distillation.
        questions: Prompts of the test set with their responses, which a language model answers.
        domains: Domain → its samples of the test set, where clients are split along a column.
    """

    validation: Samples
    test: Samples
    proxy: Samples
    public: Samples
    questions: tuple[tuple[str, str], ...] = ()
    domains: Mapping[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """A run that is ready to start: everything loaded and checked, nothing trained or written.

    Attributes:
        config: Fully resolved.
        kind: What a sample is.
        labels: Names of the classes, or of the categories of instruction data.
        model: The one model in memory.
        initial: The values of its adapter and head when it was prepared.
        federation: The clients that can be invited.
        method: With its options.
        engine: Reaches the clients.
        server: The server's data.
        histogram: Samples of each client by class, integers, shape (K, C).
        tier_of: Tier of each client, by id.
        notes: What a user should know before the start.
        losses: −log p of each sample of the server's validation data under an adapter.
        statistics: What clients sum up for a head that is solved.
        described: What ``clients.json`` holds of each client where its histogram is not known here.
        drift: The head that follows what training does to the features; None where it does not follow.
    """

    config: Config
    kind: Kind
    labels: tuple[str, ...]
    model: LoraModel
    initial: Mapping[str, Tensor]
    federation: Federation
    method: BoundMethod
    engine: Engine
    server: ServerData
    histogram: np.ndarray
    tier_of: tuple[int, ...]
    notes: tuple[str, ...]
    losses: Callable[[Adapter], Tensor]
    statistics: StatisticsSettings = DEFAULT_STATISTICS
    described: tuple[Mapping[str, Any], ...] = ()
    drift: DriftCompensation | None = None


@dataclass(frozen=True)
class Loaded:
    """What a run has before it is known who takes part.

    Attributes:
        config: With the commit of a hub id that was loaded.
        method: With its options.
        data: The data set that the configuration names.
        model: With a fresh adapter and head.
        samples: The data set as the model takes it.
        held_out: What the server keeps of it.
        public: The server's set for distillation.
        notes: What a user should know; grows.
    """

    config: Config
    method: BoundMethod
    data: DataSet
    model: LoraModel
    samples: Samples
    held_out: Split
    public: Samples
    notes: list[str]

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return METHODS[self.config.method.name]


def prepare(config: Config) -> Session:
    """Load, check and put together everything a run on this machine needs.

    Raises:
        FedhelloError: Of the kind that fits, if anything does not fit; nothing has been written then.
    """
    loaded = load(config)
    config, data, samples, model, notes = loaded.config, loaded.data, loaded.samples, loaded.model, loaded.notes
    method = loaded.row
    parts = partition_data(config.data, data, loaded.held_out, config.run.seed)
    settings = training_settings(config, loaded.method, model.device, notes)
    if method.pooled:
        settings = replace(settings, samples=_samples_per_round(config, parts))
        parts = [np.concatenate(parts)]
    if settings.measure_process:
        return_memory_at_once()
    answer = longest_answer(samples, loaded.held_out.train)
    costs = step_costs(config, model, settings, answer)
    config = with_speeds(config, model, costs, settings.autocast == "bfloat16", notes, answer)
    lengths = [samples.lengths()[part] for part in parts]
    federation, tier_of = federate(
        _pooled(config) if method.pooled else config, parts, data.labels, lengths, model, costs, notes
    )
    engine = LocalEngine(
        model=model,
        federation=federation,
        data={k: samples.subset(part) for k, part in enumerate(parts)},
        settings=settings,
        personal_heads={} if config.model.head == "local" else None,
        costs=costs,
        scoring=score_costs(config, loaded.method, model, answer),
        dropout=0.0 if method.pooled else config.clients.dropout,
        statistics=statistics_settings(config),
        together=(samples, dict(enumerate(parts))),
    )
    histogram = label_histogram(parts, data.labels, len(data.label_names))
    return assemble(replace(loaded, config=config), federation, tier_of, engine, histogram)


def load(config: Config) -> Loaded:
    """Load and check everything but the clients.

    Raises:
        FedhelloError: Of the kind that fits, if anything does not fit.
    """
    method = METHODS[config.method.name]
    bound = defended(method.bind(**config.method.options), config.defence.defence)
    _check_server_data(config.data, method, bound)
    data = load_data(config.data)
    _check_distillation(config, len(data.label_names))
    model = load_model(config, data.label_names, MODEL_KINDS[data.kind])
    config = _pinned(config, model)
    _check_bias(config, model)
    samples, changes = encode(config, data, model)
    notes = [*data.notes, *changes]
    if method.uses_scores and config.model.head == "local":
        notes.append("Fisher scores are taken through the initial head, since each client keeps its own")
    held_out = split_data(config.data, data)
    notes.extend(_lacking_classes(data, held_out))
    found = public_data(config.data, data)
    if found is None:
        public = samples.subset(held_out.public)
    else:
        public, changes = encode(config, found, model)
        notes += [f"data.public: {note}" for note in (*found.notes, *changes)]
    if config.model.head == "solved" and (method.head_alone or not config.model.train_head):
        bound = with_fixed_head(bound)
    return Loaded(config, bound, data, model, samples, held_out, public, notes)


def assemble(
    loaded: Loaded, federation: Federation, tier_of: tuple[int, ...], engine: Engine, histogram: np.ndarray
) -> Session:
    """Put a session together once it is known who takes part and how they are reached.

    Raises:
        ConfigError: If the method cannot run with these clients.
    """
    config, samples, held_out, model = loaded.config, loaded.samples, loaded.held_out, loaded.model
    _check_method(loaded.row, loaded.method, federation, model, loaded.notes)
    if config.method.options.get("pattern") == "auto":
        pattern, reason = chosen_pattern("auto", federation.tiers)
        loaded.notes.append(f"method.pattern: auto is {pattern}, since {reason}")
    asked = questions(config, loaded.data, held_out.test)
    if asked:
        loaded.notes.extend(cut_prompts(config.data, model, [prompt for prompt, _ in asked]))
    server = ServerData(
        validation=samples.subset(held_out.validation),
        test=samples.subset(held_out.test),
        proxy=samples.subset(held_out.proxy),
        public=loaded.public,
        questions=asked,
        domains=by_domain(loaded.data, samples, held_out.test) if config.data.partition.kind == "natural" else {},
    )
    drift = _drift_compensation(config, model, server) if config.model.drift_compensation else None
    losses = drift or ValidationLosses(model, server.validation, engine.settings.autocast == "bfloat16")
    bound = with_server_step(loaded.method, config.train.server.step, losses)
    if config.train.scaffold:
        bound = with_control_variates(bound, _distance(engine.settings, model))
    if config.model.head == "local":
        loaded.notes.extend(_unscored_heads(federation, {"validation": server.validation, "test": server.test}))
    return Session(
        config=config,
        kind=loaded.data.kind,
        labels=loaded.data.label_names,
        model=model,
        initial=model.read(model.block_of),
        federation=federation,
        method=bound,
        engine=engine,
        server=server,
        histogram=histogram,
        tier_of=tier_of,
        notes=tuple(loaded.notes),
        statistics=statistics_settings(config),
        drift=drift,
        losses=losses,
    )


def _drift_compensation(config: Config, model: LoraModel, server: ServerData) -> DriftCompensation:
    """Return the head that follows the features of the server's samples."""
    parts = [part for part in (server.validation, server.proxy) if len(part)]
    moments = statistics_settings(config).moments
    stated = config.model.shrinkage
    return DriftCompensation(
        model=model,
        parts=parts,
        solve=partial(family, moments=moments, solver=config.model.solver, priors=config.model.priors),
        moments=moments,
        shrinkages=SHRINKAGES if isinstance(stated, str) else (stated,),
        order=generator(config.run.seed, "drift").permutation(sum(map(len, parts))),
    )


def _lacking_classes(data: DataSet, held_out: Split) -> Iterator[str]:
    """Note parts that are too small to have samples of all classes."""
    for name, part in (("proxy", held_out.proxy), ("public", held_out.public)):
        found = len(np.unique(data.labels[part]))
        if 0 < len(part) < len(data.label_names):
            yield f"the {name} data has {found} of {len(data.label_names)} classes, since data.{name} is {len(part)}"


def _unscored_heads(federation: Federation, parts: Mapping[str, Samples]) -> Iterator[str]:
    """Note the clients whose own heads are not scored on a held-out part, which has no sample of their classes."""
    for name, part in parts.items():
        out = [client.id for client in federation.clients if not np.isin(client.classes, part.labels).any()]
        if out:
            yield f"the {name} data has no sample of the classes of clients {out}, whose own heads are not scored on it"


def _check_server_data(config: DataConfig, method: Method, bound: BoundMethod) -> None:
    """Check that the server is to keep the data that the method, with its options, needs there.

    Raises:
        ConfigError: If not, or if the method cannot use it.
    """
    if method.distils and config.kind == "instructions":
        raise ConfigError(
            f"expected a method for language models, since {method.name} lets classifiers learn from each other's "
            "classes; found instruction data. Choose helora-pad, for example."
        )
    if method.distils and not config.public:
        raise ConfigError(
            f"expected data.public, a number of samples to hold out or a data set, since {method.name} lets models "
            "learn from each other on a public set; found 0. Set data.public=200, for example."
        )
    if method.uses_scores and bound.scoring.source == "proxy" and not config.proxy:
        raise ConfigError(
            f"expected data.proxy > 0, since {method.name} computes Fisher scores on it; found 0. Set data.proxy=100, "
            "or let the clients score: method.scores=clients."
        )


def _check_bias(config: Config, model: LoraModel) -> None:
    """Check that a head that is solved can be written into the logits layer.

    Raises:
        ConfigError: If the layer has no bias.
    """
    if config.model.head == "solved" and model.logits_layer.bias is None:
        raise ConfigError(
            f"expected a logits layer with a bias for model.head=solved; that of {config.model.name}, as the "
            "architecture has it, has none. Set model.pooling=last, which reads the same token, or "
            "model.head=prototypes."
        )


def _check_distillation(config: Config, classes: int) -> None:
    """Check that beside a sample's own class there are others to distil.

    Raises:
        ConfigError: If distillation is asked for, and there is one.
    """
    if config.train.distillation and classes < 3:
        raise ConfigError(
            f"expected at least 3 classes for train.distillation, which keeps how likely the classes are that a sample "
            f"is not of; found {classes}, so that there is one such class. Set train.distillation=0."
        )


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
    first = {g: bound.allocate(Situation(k, federation, 0, equal)) for g, k in sorted(one_of.items())}
    if model.has_magnitudes:
        _check_whole_factors(method, first.values(), federation.rank)
    out = [g for g, allocation in first.items() if allocation is None]
    if not out:
        return
    budgets = " | ".join(budget_words(federation.tiers[g]) for g in out)
    who = f"clients of tiers {', '.join(map(str, out))} ({budgets}) sit out, since {method.name} asks for more"
    if method.head_alone:
        notes.append(f"{method.name} trains nothing here: its head is solved, and stays")
        return
    if len(out) == len(one_of):
        raise ConfigError(f"expected a tier that can afford {method.name}; all {who} than any affords. Raise a budget.")
    notes.append(f"{who} than they can afford")


def _check_whole_factors(method: Method, allocations: Iterable[Allocation | None], rank: int) -> None:
    """Check that clients train all of the factors, as DoRA's magnitudes need: they belong to the whole product.

    Raises:
        ConfigError: If some client trains a part.
    """
    for allocation in allocations:
        if allocation is None:
            continue
        part = allocation.components or any(r < rank for r in allocation.ranks) or allocation.factors != "AB"
        if part:
            raise ConfigError(
                f"expected model.lora.dora=false, since under {method.name} a client trains a part of the factors, and "
                "magnitudes belong to the whole; found true. Choose a method that allocates blocks, such as rgd-hla."
            )


def _pinned(config: Config, model: LoraModel) -> Config:
    """Return the configuration with what was found out on loading, so that the run can be repeated.

    It is the commit of a hub id, how features are pooled, and what ``auto`` stands for.
    """
    found = {"revision": model.source.revision, "pooling": model.pooling}
    return with_choices(config.model_copy(update={"model": config.model.model_copy(update=found)}))


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


def load_model(config: Config, labels: Sequence[str], kind: ModelKind = "text-classification") -> LoraModel:
    """Load the configured foundation model with a fresh adapter and head, on its device.

    Args:
        config: The configuration.
        labels: The names of the classes; ignored for a language model, which gets no head.
        kind: What the model is for.

    Raises:
        MissingExtraError: If an embedded model, or what quantises, is not installed.
        ModelError: If it cannot be loaded, verified or understood.
    """
    device = choose_device(config.run.device)
    base = load_foundation(
        resolve(config.model.name, config.model.revision),
        kind,
        labels,
        integer_seed(config.run.seed, "head"),
        dtype=getattr(torch, config.model.dtype),
        quantisation=config.model.quantisation,
        pad_token=config.model.pad_token,
        device=device,
        pooling=config.model.pooling,
    )
    lora = config.model.lora
    model = attach_lora(
        base,
        classes=None if kind == CAUSAL_LM else len(labels),
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        seed=integer_seed(config.run.seed, "lora"),
        rslora=lora.rslora,
        dora=lora.dora,
    )
    model.module.to(device)
    return model


def step_costs(config: Config, model: LoraModel, settings: TrainingSettings, answer: int | None) -> StepCosts | None:
    """Calibrate the model, unless nothing is to be predicted, or cannot be (DoRA)."""
    policies = _used_policies(config, model)
    wanted = config.train.measure_memory or not all(tier.budget.only_counts for tier in config.clients.tiers)
    if model.has_magnitudes or not wanted:
        return None
    fixed = config.model.head == "solved" and not config.model.train_head
    shared, frozen = is_shared(config.model.head) and not fixed, fixed or config.model.head == "frozen"
    block_upload, fixed_upload = upload_bound(model.snapshot(shared), METRICS)
    costs = calibrate(model, autocast=settings.autocast == "bfloat16", policies=policies, answer=answer)
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


def score_costs(config: Config, method: BoundMethod, model: LoraModel, answer: int | None) -> Peak | None:
    """Calibrate passes for Fisher scores, if clients score and one has a budget of memory.

    Args:
        config: With the tiers that take part.
        method: With its options.
        model: The model.
        answer: Of a language model, the tokens of the longest response.
    """
    limited = any(tier.memory is not None for tier in config.clients.tiers)
    return calibrate_scoring(model, answer) if limited and method.scoring.source == "clients" else None


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


def training_settings(config: Config, method: BoundMethod, device: torch.device, notes: list[str]) -> TrainingSettings:
    """Return how clients train under a configuration and the method's own options; the number type is this machine's.

    Args:
        config: With the tiers that take part.
        method: With its options.
        device: Where they train.
        notes: Gets a note on a choice made here.
    """
    train = config.train
    autocast = train.autocast
    if autocast == "auto":
        autocast = "bfloat16" if bfloat16_pays(device, train.batch_size) else "none"
        if autocast == "bfloat16":
            notes.append(
                "training and evaluation run in bfloat16 autocast, which is faster here; train.autocast=none keeps "
                "float32"
            )
    settings = TrainingSettings(
        rounds=train.rounds,
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimizer=train.optimizer,
        lr=rate_of(train),
        lr_schedule=train.lr_schedule,
        lr_decay=train.lr_decay,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        loss="restricted" if train.loss == "auto" else train.loss,  # told by then; see with_choices
        adjustment=train.adjustment,
        proximal=train.proximal,
        distillation=train.distillation,
        distillation_temperature=train.distillation_temperature,
        lr_head=train.lr_head,
        lr_depth=train.lr_depth,
        scaffold=train.scaffold,
        autocast=autocast,
        measure_memory=train.measure_memory,
        measure_process=any(tier.memory is not None for tier in config.clients.tiers),
    )
    return replace(settings, **method.local)


def _distance(settings: TrainingSettings, model: LoraModel) -> Distance:
    """Return K_k η as a function of a client's samples, the round and a tensor."""

    def distance(samples: int, round: int, name: str) -> float:
        factor = rate_factor(model.block_of[name], model.blocks.count, settings.lr_head, settings.lr_depth)
        return steps_of(settings, samples) * learning_rate(settings, round) * factor

    return distance


def statistics_settings(config: Config) -> StatisticsSettings:
    """Return what clients sum up for a head under a configuration; prototypes need no second moments."""
    model = config.model
    if model.head == "prototypes":
        return StatisticsSettings(Moments("means"), model.least)
    if isinstance(model.moments, str):
        return StatisticsSettings(Moments(model.moments), model.least)
    sketch = Moments("sketch", model.moments.sketch, integer_seed(config.run.seed, "sketch"))
    return StatisticsSettings(sketch, model.least)


def choose_device(name: str) -> torch.device:
    """Return a device by its name; ``auto`` takes CUDA before MPS before the CPU.

    Raises:
        ConfigError: If this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"expected run.device to be auto, cpu or an available device; {name!r}: {reason}") from error
    return device
