"""What a configuration says, as the plain settings of those that do it."""

from fedhello.client.settings import TrainingSettings
from fedhello.config.choices import rate_of
from fedhello.config.schema import Config, DataConfig, ModelConfig, PrivacyConfig
from fedhello.data.settings import DataSettings
from fedhello.model.head import SHRINKAGES, HeadSettings
from fedhello.model.settings import LoraSettings, ModelSettings
from fedhello.model.statistics import Moments, StatisticsSettings
from fedhello.privacy.secure import SecureSettings
from fedhello.randomness import integer_seed


def model_settings(config: Config) -> ModelSettings:
    """Return which foundation model is loaded, and how."""
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
        lora=LoraSettings(lora.rank, lora.alpha, lora.dropout, lora.targets, lora.rslora, lora.dora),
    )


def data_settings(data: DataConfig) -> DataSettings:
    """Return which data set is read, and what becomes of it."""
    return DataSettings(
        name=data.name,
        partition=data.partition,
        columns=data.columns,
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
    """Return how the head comes about."""
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
    return SecureSettings(privacy.limit, privacy.group)


def statistics_settings(config: Config) -> StatisticsSettings:
    """Return what clients sum up for a head; prototypes need no second moments."""
    model = config.model
    if model.head == "prototypes":
        return StatisticsSettings(Moments("means"), model.least)
    if isinstance(model.moments, str):
        return StatisticsSettings(Moments(model.moments), model.least)
    sketch = Moments("sketch", model.moments.sketch, integer_seed(config.run.seed, "sketch"))
    return StatisticsSettings(sketch, model.least)


def training_settings(config: Config) -> TrainingSettings:
    """Return how clients train; ``autocast: auto`` is ``none`` here, until it is known on which device they train."""
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
        loss="restricted" if train.loss == "auto" else train.loss,  # told by then; see with_choices
        adjustment=train.adjustment,
        proximal=train.proximal,
        distillation=train.distillation,
        distillation_temperature=train.distillation_temperature,
        lr_head=train.lr_head,
        lr_depth=train.lr_depth,
        scaffold=train.scaffold,
        autocast="none" if train.autocast == "auto" else train.autocast,
        measure_memory=train.measure_memory,
        measure_process=any(tier.memory is not None for tier in config.clients.tiers),
    )
