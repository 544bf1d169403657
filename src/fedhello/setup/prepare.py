"""Prepare a session from a configuration."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedhello.aggregation.control import with_control_variates
from fedhello.aggregation.robust import defended
from fedhello.aggregation.server import with_server_step
from fedhello.aggregation.share import most_samples
from fedhello.allocation.freezing import with_freezing
from fedhello.allocation.geometric import chosen_pattern
from fedhello.client.cost_model import batch_shapes
from fedhello.client.memory import return_memory_at_once
from fedhello.client.settings import TrainingSettings
from fedhello.config.checks import ignored
from fedhello.config.diff import relevant
from fedhello.config.found import pooled, with_evaluations, with_found, with_number_type, with_speeds_of
from fedhello.config.load import dump_config
from fedhello.config.schema import Config
from fedhello.config.settings import (
    data_settings,
    head_settings,
    model_settings,
    private_statistics,
    secure_settings,
    statistics_settings,
    training_settings,
)
from fedhello.config.text import yaml_line
from fedhello.data.batches import Samples
from fedhello.data.dataset import DataSet
from fedhello.data.digest import NOT_KNOWN, DataDigest
from fedhello.data.partition import label_histogram
from fedhello.data.split import Split
from fedhello.engine.protocol import Engine
from fedhello.method import Method
from fedhello.model.adapter import LoraModel
from fedhello.model.attention import attention_of
from fedhello.model.generation import longest_prompt
from fedhello.model.head import is_shared
from fedhello.model.injection import Admit
from fedhello.model.private_sums import PrivatePlan
from fedhello.model.settings import LoraSettings
from fedhello.model.start import Start, start_from
from fedhello.model.undo import as_it_was_if_failing
from fedhello.model.validation import ValidationLosses
from fedhello.plugins import method_or_stand_in
from fedhello.privacy.rounds import anonymous_federation
from fedhello.privacy.secure import SecureRound
from fedhello.session import ClientEntry, ServerData, Session
from fedhello.setup.cache import Keeping, boundary_cache, cache_notes, keeping, tiers_that_keep
from fedhello.setup.checks import (
    capped_statistics,
    check_bias,
    check_distillation,
    check_method,
    check_server_data,
    lacking_classes,
    unscored_heads,
)
from fedhello.setup.clients import Batches, clients_of, federate, roster_of, tiers_of, with_speeds
from fedhello.setup.data import data_digest, load_data, partition_data, public_data, split_data
from fedhello.setup.drift import drift_compensation
from fedhello.setup.encoding import (
    MODEL_KINDS,
    answer_lengths,
    by_domain,
    cut_prompts,
    encode,
    longest_answer,
    questions,
    reader_of,
)
from fedhello.setup.federation import budgets_of, empty_federation
from fedhello.setup.masking import agreed_round, masked_costs, secured, upload_note
from fedhello.setup.model import NAMED, Objects, load_model, with_features
from fedhello.setup.private import anonymous, check_accounting, private_notes
from fedhello.setup.private_plan import PrivateSetup, attention_is_free, autocast_of, longest_shapes, protects_samples
from fedhello.setup.run_settings import run_settings
from fedhello.setup.scored import scored_every
from fedhello.setup.together import engine_of
from fedhello.setup.training import distance_of, on_device, score_costs, step_costs, with_copies
from fedhello.strategy import BoundMethod, with_fixed_head
from fedhello.types import Adapter, Federation

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Loaded:
    """The parts of a session that do not depend on the clients.

    Attributes:
        config: The configuration, with the commit of a loaded hub id.
        method: The method with its options.
        data: The data set that the configuration names.
        model: The model with a new adapter and head.
        samples: The data set encoded for the model.
        held_out: The split of the data set between clients and server.
        public: The server's set for distillation.
        notes: Notes for the user.
        private: What is released under differential privacy; None without it, and before the clients are known.
        digest: The digest of the data.
        start: The existing adapter that the run starts from.
        threads: See ``RunSettings``.
    """

    config: Config
    method: BoundMethod
    data: DataSet
    model: LoraModel
    samples: Samples
    held_out: Split
    public: Samples
    notes: tuple[str, ...]
    private: PrivatePlan | None = None
    digest: DataDigest = NOT_KNOWN
    start: Start | None = None
    threads: int | None = None

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        return method_or_stand_in(self.config.method.name, self.config.method.options)


def prepare(
    config: Config,
    given: Objects = NAMED,
    labels: Sequence[str] | None = None,
    tell: Tell = lambda what: None,
    start: Start | None = None,
) -> Session:
    """Load, check and assemble everything that a run on this machine needs.

    Args:
        config: The configuration.
        given: The objects of the program.
        labels: The names of the classes of a run that is taken up again, in its order; None takes those that occur.
        tell: Called with what is about to be loaded.
        start: Stands in for ``model.adapter``, of a run that is taken up again; None reads it.

    Raises:
        FedhelloError: Of the matching kind, for every error that the user can fix; nothing is written, and a model in
            memory is restored.
    """
    with as_it_was_if_failing(given.model):
        loaded = load(config, given, labels=labels, tell=tell, start=start)
        tell("what each client can train")
        return _prepared(loaded)


def _prepared(loaded: Loaded) -> Session:
    config, data, samples, model, method = loaded.config, loaded.data, loaded.samples, loaded.model, loaded.row
    private = private_statistics(config.privacy)
    parts = partition_data(data_settings(config.data), data, loaded.held_out, config.run.seed)
    settings, chosen = on_device(
        training_settings(config), autocast_of(config, method), loaded.method, model, samples, attention_is_free(config)
    )
    config = with_number_type(config, settings.autocast, attention_of(model))
    if method.pooled:
        settings = replace(settings, samples=round(config.train.clients_per_round * sum(map(len, parts)) / len(parts)))
        parts = [np.concatenate(parts)]
    if settings.measure_process:
        return_memory_at_once()
    answer = longest_answer(samples, loaded.held_out.train)
    budgets = budgets_of(config)
    costs = step_costs(model, settings, head_settings(config.model), budgets, config.train.activations, answer)
    if costs is not None and config.privacy.secure:
        costs = masked_costs(
            costs, _global(config, model), config.train.clients_per_round, secure_settings(config.privacy)
        )
    draws = protects_samples(config, method)
    if costs is not None and draws:
        costs = with_copies(costs, settings.batch_size)
    budgets, measured = with_speeds(budgets, model, costs, settings.autocast == "bfloat16", answer)
    config = with_speeds_of(config, budgets)
    empty = empty_federation(pooled(config) if method.pooled else config, model)
    shares = [1.0] if method.pooled else [tier.share for tier in config.clients.tiers]
    tier_of = tiers_of(shares, empty.tiers, len(parts), model)
    shapes = _shapes(loaded, parts, settings)
    everyone = clients_of(parts, data.labels, tier_of, empty.tiers)
    kept = Keeping() if private is not None else keeping(model, budgets, samples, settings, draws)
    federation, left_out = federate(
        empty, everyone, shapes, costs, settings, tiers_that_keep(kept, everyone, samples, parts)
    )
    engine_type, workers, settings, at_once = engine_of(
        config.run.engine, config.run.workers, model, settings, federation, samples, private is not None
    )
    engine = engine_type(
        model=model,
        federation=federation,
        data={k: samples.subset(part) for k, part in enumerate(parts)},
        settings=settings,
        costs=costs,
        scoring=score_costs(budgets, loaded.method, model, answer),
        dropout=0.0 if method.pooled else config.clients.dropout,
        statistics=statistics_settings(config),
        private=private,
        # In one pass a client's texts could change the padding, and so the last bits, of another's features.
        together=(samples, dict(enumerate(parts))) if private is None else None,
        workers=workers,
        boundary=boundary_cache(config.run.cache_folder),
    )
    histogram = label_histogram(parts, data.labels, len(data.label_names))
    roster = roster_of(tier_of, histogram, data.label_names)
    said = cache_notes(kept, federation.clients, engine.data)
    notes = (*loaded.notes, *chosen, *measured, *left_out, *at_once, *said)
    loaded = replace(loaded, config=config, notes=notes, threads=workers.threads if workers.count > 1 else None)
    if private is not None:
        loaded = with_privacy(loaded, federation, settings)
        federation, roster, histogram = anonymous_federation(federation), anonymous(roster), np.zeros_like(histogram)
    if not config.privacy.secure:
        return assemble(loaded, federation, roster, engine, histogram)
    masked, bound = secured(engine, loaded.method, agreed_on(loaded, federation))
    return assemble(replace(loaded, method=bound), federation, roster, masked, histogram)


def _shapes(loaded: Loaded, parts: Sequence[np.ndarray], settings: TrainingSettings) -> list[Batches]:
    """Return each client's widest batch and batches; under differential privacy those that any client could have."""
    config, how, lengths = loaded.config, (settings.batch_size, settings.epochs), loaded.samples.lengths()
    if config.privacy.epsilon is None:
        answers = answer_lengths(loaded.samples)
        return [batch_shapes(lengths[part], *how, None if answers is None else answers[part]) for part in parts]
    known = protects_samples(config, loaded.row)
    return [longest_shapes(config, loaded.data.kind, int(lengths.max()), len(part) if known else 1) for part in parts]


def with_privacy(loaded: Loaded, federation: Federation, settings: TrainingSettings) -> Loaded:
    """Return the parts with the releases of a run under differential privacy, and a method that makes them."""
    check_accounting()
    setup = PrivateSetup(loaded.config, loaded.row, loaded.method, loaded.model, federation, settings)
    plan, method = setup.on_samples(loaded.samples, loaded.held_out) if setup.protects_samples else setup.on_clients()
    notes = (*loaded.notes, *private_notes(plan, len(federation.clients), settings.rounds))
    return replace(loaded, method=method, private=plan, notes=notes)


def agreed_on(loaded: Loaded, federation: Federation) -> SecureRound:
    """Return what clients and server of a run with secure sums agree on."""
    config = loaded.config
    aggregator = loaded.row.bind(**config.method.options).aggregate
    losses = loaded.private is None or loaded.private.steps is None
    if loaded.private is not None and loaded.private.rounds is not None:
        aggregator = loaded.method.aggregate
    adapter = _global(config, loaded.model)
    # Contributions to a private release are clipped already, whatever the number of samples.
    max_share = config.defence.max_share if config.privacy.epsilon is None else None
    agreed = agreed_round(aggregator, federation, adapter, secure_settings(config.privacy), max_share)
    return replace(agreed, losses=losses)


def _global(config: Config, model: LoraModel) -> Adapter:
    return model.snapshot(is_shared(config.model.head))


def load(
    config: Config,
    given: Objects = NAMED,
    admit: Admit | None = None,
    labels: Sequence[str] | None = None,
    tell: Tell = lambda what: None,
    start: Start | None = None,
) -> Loaded:
    """Load and check everything except the clients.

    Args:
        config: The configuration.
        given: The objects of the program.
        admit: Called with the number of the adapter's values, before they are made; may raise.
        labels: As for ``prepare``.
        tell: Likewise.
        start: Likewise.

    Raises:
        FedhelloError: Of the matching kind, for every error that the user can fix.
    """
    method = method_or_stand_in(config.method.name, config.method.options)
    defence = config.defence.defence
    if config.privacy.secure:  # nobody sees a single update; clients keep to privacy.limit themselves
        defence = replace(defence, max_norm=None)
    bound = defended(method.bind(**config.method.options), defence)
    stated = data_settings(config.data)
    check_server_data(config.data.kind, stated.proxy, stated.public, method, bound)
    tell("the data")
    data = load_data(stated, labels, source=given.data)
    if config.train.distillation:
        check_distillation(len(data.label_names))
    settings = with_features(model_settings(config), data, given)
    tell("the model")
    model = load_model(settings, data.label_names, MODEL_KINDS[data.kind], given, admit)
    start, said = _start(config, model, settings.lora, data.label_names, start)
    config = with_found(config, model, settings.features)
    if config.model.head == "solved":
        check_bias(model)
    lengths = config.data.max_length, config.data.answer_tokens
    tell("the samples as the model reads them")
    samples, changes = encode(data, model, *lengths)
    notes = [*data.notes, *changes, *ignored(config), *said]
    if model.left_out is not None:
        notes.append(f"model.lora.targets={yaml_line(config.model.lora.targets)}: {model.left_out}")
    if method.uses_scores and config.model.head == "local":
        notes.append("Fisher scores are computed with the initial head, since each client keeps its own head")
    held_out = split_data(stated, data)
    notes.extend(lacking_classes(data, held_out))
    found = public_data(stated, data)
    if found is None:
        public = samples.subset(held_out.public)
    else:
        public, changes = encode(found, model, *lengths)
        notes += [f"data.public: {note}" for note in (*found.notes, *changes)]
    if config.model.head == "solved" and (method.head_alone or not config.model.train_head):
        bound = with_fixed_head(bound)
    # A digest of clients' data would be a release of its own, from which a guess could be confirmed.
    here = config.run.engine != "flower" and config.privacy.epsilon is None
    digest = replace(data_digest(data, held_out, found, with_train=here), processor=reader_of(model))
    return Loaded(config, bound, data, model, samples, held_out, public, tuple(notes), digest=digest, start=start)


def _start(
    config: Config, model: LoraModel, lora: LoraSettings, labels: Sequence[str], kept: Start | None
) -> tuple[Start | None, tuple[str, ...]]:
    """Read the adapter that the run starts from into the model, unless it is kept; return it, and notes."""
    if kept is None and config.model.adapter is not None:
        kept = start_from(model, config.model.adapter, lora, labels)
    return kept, () if kept is None else kept.notes


def assemble(
    loaded: Loaded, federation: Federation, roster: tuple[ClientEntry, ...], engine: Engine, histogram: np.ndarray
) -> Session:
    """Return the session, given its clients and the engine that reaches them.

    Raises:
        ConfigError: If the method cannot run with these clients.
    """
    config, samples, held_out, model = loaded.config, loaded.samples, loaded.held_out, loaded.model
    notes = [*loaded.notes, *check_method(loaded.row, loaded.method, federation, model)]
    if config.method.options.get("pattern") == "auto":
        pattern, reason = chosen_pattern("auto", federation.tiers)
        notes.append(f"method.pattern: auto is {pattern}, since {reason}")
    if config.privacy.secure:
        notes.append(upload_note(_global(config, model), secure_settings(config.privacy)))
    asked = questions(loaded.data, held_out.test, config.data.answers)
    prompt_tokens = longest_prompt(model, config.data.max_length, config.data.answer_tokens) if asked else 0
    if asked:
        notes.extend(cut_prompts(prompt_tokens, model, [prompt for prompt, _ in asked]))
    server = ServerData(
        validation=samples.subset(held_out.validation),
        test=samples.subset(held_out.test),
        proxy=samples.subset(held_out.proxy),
        public=loaded.public,
        questions=asked,
        domains=by_domain(loaded.data, samples, held_out.test) if config.data.partition.kind == "natural" else {},
        answer_tokens=config.data.answer_tokens,
        prompt_tokens=prompt_tokens,
    )
    bfloat16 = engine.settings.autocast == "bfloat16"
    drift = drift_compensation(config, model, server, bfloat16) if config.model.drift_compensation else None
    losses = drift or ValidationLosses(model, server.validation, bfloat16)
    bound = with_server_step(loaded.method, config.train.server.step, losses)
    if config.train.scaffold:
        bound = with_control_variates(bound, distance_of(engine.settings, model))
    bound = with_freezing(bound)
    private = loaded.private
    most = most_samples((entry.samples for entry in roster), config.defence.max_share) if private is None else None
    if most is not None and config.model.head in ("solved", "prototypes"):
        notes.extend(capped_statistics(roster, most))
    if config.model.head == "local":
        notes.extend(unscored_heads(federation, {"validation": server.validation, "test": server.test}))
    every, said = scored_every(config, federation, len(server.validation) + len(server.test), engine.settings.samples)
    config = with_evaluations(config, every)
    notes.extend(said)
    return Session(
        config=config.model_dump(mode="json"),
        config_yaml=dump_config(config),
        relevant=relevant(config),
        settings=run_settings(config, every, loaded.threads),
        head=head_settings(config.model),
        row=loaded.row,
        kind=loaded.data.kind,
        labels=loaded.data.label_names,
        model=model,
        initial=model.read(model.block_of),
        federation=federation,
        method=bound,
        engine=engine,
        server=server,
        histogram=histogram,
        roster=roster,
        notes=tuple(notes),
        statistics=statistics_settings(config),
        drift=drift,
        losses=losses,
        most_samples=most,
        private=private,
        digest=loaded.digest,
        start=loaded.start,
    )
