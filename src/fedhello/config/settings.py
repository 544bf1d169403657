"""Convert a configuration to the plain settings of each room."""

import math
from dataclasses import replace

from fedhello.client.settings import TrainingSettings
from fedhello.config.choices import rate_of
from fedhello.config.schema import Config, DataConfig, ModelConfig, PrivacyConfig
from fedhello.data.settings import DataSettings
from fedhello.model.head import SHRINKAGES, HeadSettings
from fedhello.model.private_sums import HEAD, ROUND, SCORES, STEP, PrivatePlan, PrivateStatistics
from fedhello.model.settings import LoraSettings, ModelSettings
from fedhello.model.statistics import Moments, StatisticsSettings
from fedhello.privacy.ledger import Planned, calibrated, least_noise
from fedhello.privacy.rounds import PrivateRounds
from fedhello.privacy.samples import PrivateSteps, rate_and_steps
from fedhello.privacy.secure import SecureSettings
from fedhello.randomness import integer_seed
from fedhello.state import Release


def model_settings(config: Config) -> ModelSettings:
    """Return the settings for loading the foundation model."""
    model, lora = config.model, config.model.lora
    return ModelSettings(
        name=model.name,
        revision=model.revision,
        device=config.run.device,
        seed=config.run.seed,
        dtype=model.dtype,
        quantisation=model.quantisation,
        pad_token=model.pad_token,
        pooling=model.pooling,
        head_module=model.head_module,
        features=model.features,
        frozen_dropout=model.frozen_dropout,
        attention="default" if model.attention == "auto" else model.attention,
        lora=LoraSettings(lora.rank, lora.alpha, lora.dropout, lora.targets, lora.rslora, lora.dora),
    )


def data_settings(data: DataConfig) -> DataSettings:
    """Return the settings for reading and splitting the data set."""
    return DataSettings(
        name=data.name,
        partition=data.partition,
        columns=data.columns,
        encoding=data.encoding,
        split=data.split,
        samples=data.samples,
        held_out_samples=data.held_out_samples,
        clients=data.clients,
        validation=data.validation,
        test=data.test,
        proxy=data.proxy,
        public=data.public,
        deduplicate=data.deduplicate,
        skip_bad_images=data.on_bad_image == "skip",
    )


def head_settings(model: ModelConfig) -> HeadSettings:
    """Return the settings of the head."""
    return HeadSettings(
        policy=model.head,
        trains=model.train_head,
        solver=model.solver,
        priors=model.priors,
        shrinkages=SHRINKAGES if isinstance(model.shrinkage, str) else (model.shrinkage,),
        scale=model.head_scale,
        refresh=None if isinstance(model.refresh, str) else model.refresh,
        forgetting=model.forgetting,
        final=model.final,
    )


def secure_settings(privacy: PrivacyConfig) -> SecureSettings:
    """Return how sums over clients are masked."""
    return SecureSettings(privacy.limit, privacy.group, privacy.cohorts)


def private_statistics(privacy: PrivacyConfig) -> PrivateStatistics | None:
    """Return what clients contribute to the head's release; None without a budget."""
    if privacy.epsilon is None:
        return None
    clip = None if isinstance(privacy.clip, str) else privacy.clip
    return PrivateStatistics(clip, moments=privacy.head == "moments", unit=privacy.unit)


MOST_BAND = 32
"""The largest band that is chosen: the noise of so many rounds is kept, and more takes little more noise away."""


def band_of(config: Config) -> int:
    """Return b, the number of rounds in which each client has one turn; 1 without banded noise."""
    privacy, train = config.privacy, config.train
    if privacy.mechanism == "gaussian":
        return 1
    if isinstance(privacy.band, str):
        return max(1, min(config.data.clients // train.clients_per_round, train.rounds, MOST_BAND))
    return privacy.band


def private_rounds(config: Config, release: Release, rate: float, first_clip: float) -> PrivateRounds:
    """Return how rounds are released.

    Args:
        config: The configuration.
        release: One round, or with banded noise one cycle of rounds.
        rate: q, the share of the clients that a round has.
        first_clip: C of the first round, unless the configuration fixes it.
    """
    privacy = config.privacy
    clip, adapts = (first_clip, True) if isinstance(privacy.update_clip, str) else (privacy.update_clip, False)
    return PrivateRounds(release, rate, clip, adapts, privacy.factors, privacy.last_blocks, band_of(config))


def private_plan(config: Config, clients: int, first_clip: float | None, scored: int = 0) -> PrivatePlan | None:
    """Return the releases of a run with the noise that the budget asks for; None without a budget.

    Args:
        config: The configuration.
        clients: K.
        first_clip: C of the first round, unless the configuration fixes it; None if nothing trains.
        scored: Rounds in which clients send Fisher scores.
    """
    privacy, statistics = config.privacy, private_statistics(config.privacy)
    if privacy.epsilon is None or statistics is None:
        return None
    head = Planned(HEAD, 1.0 if first_clip is None else privacy.split)
    if first_clip is None:
        (release,) = calibrated([head], privacy.epsilon, privacy.delta)
        return PrivatePlan(privacy.epsilon, privacy.delta, release, statistics)
    rate, band = config.train.clients_per_round / clients, band_of(config)
    times = math.ceil(config.train.rounds / band)
    counted = rate if privacy.mechanism == "gaussian" else 1.0
    left = 1 - privacy.split
    of_scores = [Planned(SCORES, privacy.score_split * left, counted, scored)] if scored else []
    left -= sum(one.share for one in of_scores)
    planned = [head, *of_scores, Planned(ROUND, left, counted, times)]
    release, *scores, every = calibrated(planned, privacy.epsilon, privacy.delta)
    rounds = private_rounds(config, replace(every, times=1), rate, first_clip)
    one = replace(scores[0], times=1) if scores else None
    return PrivatePlan(privacy.epsilon, privacy.delta, release, statistics, rounds, times, one, scored)


def sample_plan(config: Config, smallest: int, times: int) -> PrivatePlan:
    """Return the releases of a run that trains and protects single samples, with the noise that the budget asks for.

    Args:
        config: The configuration, with a budget.
        smallest: The samples of the smallest client.
        times: The most rounds that one client is part of.
    """
    privacy, train, statistics = config.privacy, config.train, private_statistics(config.privacy)
    assert privacy.epsilon is not None and statistics is not None
    rate, steps = rate_and_steps(train.batch_size, smallest, train.epochs)
    planned = [Planned(HEAD, privacy.split), Planned(STEP, 1 - privacy.split, rate, steps * times)]
    head, every = calibrated(planned, privacy.epsilon, privacy.delta)
    clip = None if isinstance(privacy.update_clip, str) else privacy.update_clip
    how = PrivateSteps(replace(every, times=1), steps, rate * smallest, clip, privacy.factors, privacy.last_blocks)
    return PrivatePlan(privacy.epsilon, privacy.delta, head, statistics, times=times, steps=how)


def head_release(config: Config, trains: bool) -> Release:
    """Return the head's release of a run with a budget, which follows from the configuration alone.

    Args:
        config: The configuration, with a budget.
        trains: Whether more than the head is released.
    """
    privacy = config.privacy
    assert privacy.epsilon is not None
    share = privacy.split if trains else 1.0
    return least_noise((), Planned(HEAD, share), share * privacy.epsilon, privacy.delta)


def statistics_settings(config: Config) -> StatisticsSettings:
    """Return which statistics clients sum for a head; prototypes need no second moments."""
    model = config.model
    if model.head == "prototypes":
        return StatisticsSettings(Moments("means"), model.least)
    if isinstance(model.moments, str):
        return StatisticsSettings(Moments(model.moments), model.least)
    sketch = Moments("sketch", model.moments.sketch, integer_seed(config.run.seed, "sketch"))
    return StatisticsSettings(sketch, model.least)


def training_settings(config: Config) -> TrainingSettings:
    """Return the settings of local training; ``autocast: auto`` is ``none`` until the device is known."""
    train = config.train
    return TrainingSettings(
        rounds=train.rounds,
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimizer=train.optimizer,
        lr=rate_of(train),
        lr_schedule=train.lr_schedule,
        lr_decay=train.lr_decay,
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        loss="restricted" if train.loss == "auto" else train.loss,  # with_choices has resolved it
        adjustment=train.adjustment,
        proximal=train.proximal,
        distillation=train.distillation,
        distillation_temperature=train.distillation_temperature,
        lr_head=train.lr_head,
        lr_depth=train.lr_depth,
        scaffold=train.scaffold,
        tangents=train.tangents if train.activations == "forward" else 0,
        autocast="none" if train.autocast == "auto" else train.autocast,
        measure_memory=train.measure_memory,
        measure_process=any(tier.memory is not None for tier in config.clients.tiers),
    )
