"""The configuration: one YAML file, every key checked, every key overridable as ``a.b=c``.

The defaults are the embedded demo. A configuration is read in one place and turned into plain arguments in
``fedhello.setup.prepare``; no other part of fedhello sees it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedhello.aggregation.robust import Defence, RobustRule
from fedhello.aggregation.server import ServerOptimizer, ServerStep
from fedhello.client.loss import Loss
from fedhello.client.training import LearningRateSchedule, OptimizerName
from fedhello.config.messages import sentence
from fedhello.data.columns import placeholders
from fedhello.data.dataset import UNNAMED, Columns, Kind
from fedhello.data.embedded_sets import EMBEDDED_DATA
from fedhello.embedded import PREFIX
from fedhello.errors import ConfigError
from fedhello.formatting import nearest
from fedhello.methods import METHODS, Method, the_global_model
from fedhello.model.adapter import ATTENTION_QV
from fedhello.model.head import HeadPolicy, Priors, Solver
from fedhello.model.loading import Quantisation
from fedhello.model.pooling import Pooling
from fedhello.types import Budget, Rule


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _fraction(value: object) -> object:
    """Read a share such as 1/3, 0.25 or 1."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError("a share is a number such as 0.25 or 1/3") from None
    return value


def _bytes(value: object) -> object:
    """Read bytes with a unit: 300MB and 300 MB are 300·10⁶, 300MiB is 300·2²⁰."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*[kmgt]?i?b\s*", value, re.IGNORECASE):
        return int(TypeAdapter(ByteSize).validate_python("".join(value.split())))
    raise ValueError("bytes are a number above 0 with a unit, such as 300MB, 300 MB or 300MiB")


def _flops(value: object) -> object:
    """Read a speed: 40GFLOP/s or 40 GFLOPS is 40·10⁹."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)flop(?:s|/s)\s*", value, re.IGNORECASE)
        if found:
            return float(found[1]) * 1000.0 ** " kmgtp".index(found[2].lower() or " ")
    raise ValueError("a speed is a number above 0 with a unit, such as 40GFLOP/s")


Bytes = Annotated[
    int, BeforeValidator(_bytes), Field(gt=0), PlainSerializer(lambda count: f"{count}B", when_used="unless-none")
]
Speed = Annotated[
    float,
    BeforeValidator(_flops),
    Field(gt=0),
    PlainSerializer(lambda speed: f"{speed:.0f}FLOP/s", when_used="unless-none"),
]


def _only(accepts: Callable[[Any], bool], sentence: str) -> BeforeValidator:
    """Refuse all else by one sentence; pydantic would complain once for each type of a union."""

    def validated(value: object) -> object:
        if not accepts(value):
            raise ValueError(sentence)
        return value

    return BeforeValidator(validated)


Shrinkage = Annotated[
    Literal["auto"] | float,
    _only(
        lambda value: value == "auto" or (type(value) in (int, float) and 0 < value <= 1),
        "expected auto, or a number above 0 and at most 1",
    ),
]
Rounds = Annotated[
    Literal["never"] | int,
    _only(
        lambda value: value == "never" or (type(value) is int and value >= 1), "expected never, or a number of rounds"
    ),
]


Rate = Annotated[
    Literal["auto"] | float,
    _only(
        lambda value: value == "auto" or (type(value) in (int, float) and value > 0 and math.isfinite(value)),
        "expected auto, or a number above 0",
    ),
]


class LoraConfig(_Section):
    """How LoRA is placed: h = W₀x + (alpha/rank)·B A x, with rslora h = W₀x + (alpha/√rank)·B A x."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(8, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Literal["attention-qv", "attention", "all-linear"] | Annotated[list[str], Field(min_length=1)] = (
        ATTENTION_QV
    )
    rslora: bool = False
    dora: bool = False


class Sketch(_Section):
    """Second moments of features that are projected to so many dimensions."""

    sketch: int = Field(ge=1)


class ModelConfig(_Section):
    """The foundation model, its task and its head."""

    name: str = Field("embedded:minilm", min_length=1)
    revision: str | None = None
    task: Literal["classification", "instruction"] = "classification"
    pooling: Literal["auto"] | Pooling = "auto"
    head: HeadPolicy = "solved"
    head_scale: float = Field(10.0, gt=0)
    solver: Solver = "lda"
    shrinkage: Shrinkage = "auto"
    priors: Priors = "balanced"
    moments: Literal["full", "diagonal", "means"] | Sketch = "full"
    least: int = Field(2, ge=1)
    train_head: bool = False
    drift_compensation: Literal["auto"] | bool = "auto"
    refresh: Rounds = "never"
    forgetting: float = Field(0.5, ge=0, le=1)
    final: bool = True
    lora: LoraConfig = LoraConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantisation: Quantisation = "none"
    pad_token: str | None = Field(None, min_length=1)


class Iid(_Section):
    """Samples dealt at random."""

    kind: Literal["iid"]


class Dirichlet(_Section):
    """Label proportions drawn from Dirichlet(alpha)."""

    kind: Literal["dirichlet"]
    alpha: float = Field(0.5, gt=0)
    minimum: int = Field(10, ge=1)


class Pathological(_Section):
    """Exactly k classes per client."""

    kind: Literal["pathological"]
    classes_per_client: int = Field(2, ge=1)
    minimum: int = Field(10, ge=1)


class Natural(_Section):
    """Along a column of the data: domain, user or source."""

    kind: Literal["natural"]
    column: str


class Files(_Section):
    """One client per file of the folder that ``data.name`` names, in the order of the files' names."""

    kind: Literal["files"]


def _default_kind(value: object) -> object:
    """Take the kind of the default partition where none is named, so that one key can be overridden alone."""
    return {"kind": "pathological", **value} if isinstance(value, dict) else value


Partition = Annotated[
    Iid | Dirichlet | Pathological | Natural | Files, Field(discriminator="kind"), BeforeValidator(_default_kind)
]


def _template(value: object) -> object:
    """Check a template; YAML reads one that is nothing but a column in braces as a mapping."""
    if isinstance(value, dict):
        raise ValueError("a column is named without braces where nothing else stands beside it")
    if isinstance(value, str):
        try:
            placeholders(value)
        except ValueError as error:
            raise ValueError(f"a template has columns in braces, such as 'Question: {{question}}'; {error}") from None
    return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


Name = Annotated[str, Field(min_length=1)]
Template = Annotated[str, BeforeValidator(_template), Field(min_length=1)]
TextColumns = Annotated[
    str | list[str],
    _only(
        lambda value: _is_name(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_name, value))),
        "expected a column, or a list of two for pairs of texts",
    ),
]
ShareOrName = Annotated[
    float | str,
    _only(
        lambda value: _is_name(value) or (isinstance(value, float) and 0 < value < 1),
        "expected a share above 0 and below 1, or the name of a file or a split",
    ),
]
CountOrName = Annotated[
    int | str,
    _only(
        lambda value: _is_name(value) or (type(value) is int and value >= 0),
        "expected a number of samples, or a data set as data.name",
    ),
]


class DataConfig(_Section):
    """The data set, what the server keeps of it, and how the rest is split over clients."""

    name: Name = "embedded:bbc-headlines"
    split: Name | None = None
    text: TextColumns = "text"
    label: Name = "label"
    image: Name | None = None
    prompt: Template | None = None
    response: Template | None = None
    samples: int | None = Field(None, ge=1)
    held_out_samples: int | None = Field(None, ge=1)
    clients: int = Field(20, ge=1)
    partition: Partition = Pathological(kind="pathological", classes_per_client=2)
    validation: ShareOrName = 0.1
    test: ShareOrName = 0.2
    proxy: int = Field(100, ge=0)
    public: CountOrName = 0
    max_length: int = Field(128, ge=4)
    answers: int = Field(50, ge=0)
    answer_tokens: int = Field(64, ge=1)
    deduplicate: bool = True
    on_bad_image: Literal["error", "skip"] = "error"

    @property
    def columns(self) -> Columns:
        """Which columns of the data set hold what."""
        text = self.text if isinstance(self.text, str) else (self.text[0], self.text[1])
        group = self.partition.column if isinstance(self.partition, Natural) else None
        return Columns(text, self.label, self.image, self.prompt, self.response, group)

    @property
    def kind(self) -> Kind | None:
        """What a sample is; None where only the data set knows."""
        columns = self.columns
        if replace(columns, group=None) != UNNAMED:
            return columns.kind
        embedded_set = EMBEDDED_DATA.get(self.name.removeprefix(PREFIX)) if self.name.startswith(PREFIX) else None
        return None if embedded_set is None else embedded_set.columns.kind

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "DataConfig":
        validation, test = (0.0 if isinstance(part, str) else part for part in (self.validation, self.test))
        if validation + test >= 1:
            raise ValueError(f"validation and test leave nothing to train on: {validation} + {test} ≥ 1")
        return self

    @model_validator(mode="after")
    def _cap_what_is_given(self) -> "DataConfig":
        if self.held_out_samples is not None and not any(
            isinstance(part, str) for part in (self.validation, self.test)
        ):
            raise ValueError("held_out_samples has a meaning only beside a given validation or test; found shares")
        return self

    @model_validator(mode="after")
    def _one_kind_of_sample(self) -> "DataConfig":
        if (self.prompt is None) != (self.response is None):
            given, lacking = ("prompt", "response") if self.response is None else ("response", "prompt")
            raise ValueError(f"instruction data has a prompt and a response; found {given} without {lacking}")
        kinds = {"text": self.text != "text", "image": self.image is not None, "prompt": self.prompt is not None}
        named = [key for key, is_named in kinds.items() if is_named]
        if len(named) > 1:
            raise ValueError(f"a sample is a text, an image or a prompt with a response; found {' and '.join(named)}")
        if not isinstance(self.text, str) and self.text[0] == self.text[1]:
            raise ValueError(f"a pair of texts has two columns; found {self.text[0]!r} twice")
        return self


class TierConfig(_Section):
    """A share of the clients, and what each of them can afford."""

    share: Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)]
    blocks: int | None = Field(None, ge=0)
    rank: int | None = Field(None, ge=1)
    memory: Bytes | None = None
    upload: Bytes | None = None
    seconds: float | None = Field(None, gt=0)
    speed: Speed | None = None

    @model_serializer(mode="wrap")
    def _what_is_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @property
    def budget(self) -> Budget:
        """What a client of the tier can afford."""
        return Budget(self.blocks, self.memory, self.upload, self.seconds, self.speed, self.rank)

    @model_validator(mode="after")
    def _affords_something(self) -> "TierConfig":
        if self.blocks is None and self.rank is None and self.budget.only_counts:
            raise ValueError("a tier needs blocks, rank, memory, upload or seconds; found none of them")
        if self.speed is not None and self.seconds is None:
            raise ValueError("a tier's speed has a meaning only beside its seconds")
        return self


class ClientsConfig(_Section):
    """The tiers; clients are assigned to them by id, in this order. ``dropout`` simulates lost clients."""

    tiers: list[TierConfig] = Field(
        default=[
            TierConfig(share=1 / 3, blocks=2),
            TierConfig(share=1 / 3, blocks=4),
            TierConfig(share=1 / 3, blocks=6),
        ],
        min_length=1,
    )
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("tiers")
    @classmethod
    def _shares_sum_to_one(cls, tiers: list[TierConfig]) -> list[TierConfig]:
        total = sum(tier.share for tier in tiers)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the tiers must sum to 1, they sum to {total:g}")
        return tiers


class MethodConfig(BaseModel):
    """A method of the table, and its options beside its name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "fed-hello"

    @property
    def options(self) -> dict[str, Any]:
        """The options given, without the name."""
        return dict(self.__pydantic_extra__ or {})


class ServerConfig(_Section):
    """The optimiser that steps on the server; ``lr: null`` takes 1 for ``avgm`` and 0.01 for those that adapt."""

    name: ServerOptimizer = "none"
    lr: float | None = Field(None, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)

    @property
    def step(self) -> ServerStep:
        """The same for the aggregation."""
        lr = (1.0 if self.name == "avgm" else 0.01) if self.lr is None else self.lr
        return ServerStep(self.name, lr, self.beta1, self.beta2, self.tau)


class TrainConfig(_Section):
    """Rounds, and how each client trains in one."""

    rounds: int = Field(20, ge=1)
    clients_per_round: int = Field(5, ge=1)
    over_selection: float = Field(1.0, ge=1)
    quorum: Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)] = 0.5
    retries: int = Field(3, ge=1)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    optimizer: OptimizerName = "adamw"
    lr: Rate = "auto"
    lr_schedule: LearningRateSchedule = "cosine"
    lr_decay: float = Field(0.99, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    lr_head: float = Field(1.0, gt=0)
    lr_depth: float = Field(1.0, gt=0, le=1)
    loss: Loss | Literal["auto"] = "auto"
    adjustment: float = Field(1.0, ge=0)
    proximal: float = Field(0.0, ge=0)
    scaffold: bool = False
    distillation: float = Field(0.0, ge=0)
    distillation_temperature: float = Field(1.0, gt=0)
    server: ServerConfig = ServerConfig()
    selection: Literal["auto", "last", "validation"] = "auto"
    autocast: Literal["auto", "none", "bfloat16"] = "auto"
    activations: Rule = "auto"
    measure_memory: bool = True
    evaluate_every: int = Field(1, ge=1)

    def scored_after(self, done: int) -> bool:
        """Whether the state after so many rounds is scored: the start, every ``evaluate_every``-th and the last."""
        return done % self.evaluate_every == 0 or done == self.rounds


class DefenceConfig(_Section):
    """What is done about clients that are broken or hostile."""

    screen: float | None = Field(None, gt=1)
    clip: float | None = Field(None, gt=0)
    rule: RobustRule = "mean"
    byzantine: int = Field(1, ge=0)

    @property
    def defence(self) -> Defence:
        """The same for the aggregation."""
        return Defence(self.screen, self.clip, self.rule, self.byzantine)


class RunConfig(_Section):
    """Where and how the run takes place."""

    seed: int = Field(0, ge=0)
    engine: Literal["local", "flower"] = "local"
    wait: float = Field(600.0, gt=0)
    deadline_floor: float = Field(30.0, gt=0)
    deadline_factor: float = Field(3.0, ge=1)
    device: str = "auto"
    out: str = "runs"
    name: str | None = Field(None, pattern=r"^[^./\\][^/\\]*$")
    checkpoint_every: int = Field(1, ge=1)
    keep: int = Field(3, ge=1)
    track: Annotated[
        list[Literal["jsonl", "tensorboard", "wandb", "mlflow"]],
        AfterValidator(lambda names: list(dict.fromkeys(["jsonl", *names]))),  # rounds.jsonl is written in any case
    ] = ["jsonl"]


class Config(_Section):
    """A whole configuration."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    clients: ClientsConfig = ClientsConfig()
    method: MethodConfig = MethodConfig()
    train: TrainConfig = TrainConfig()
    defence: DefenceConfig = DefenceConfig()
    run: RunConfig = RunConfig()
    parity: Literal["corrected", "published"] = "corrected"

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if self.train.clients_per_round > self.data.clients:
            raise ValueError(
                f"train.clients_per_round must be at most data.clients, {self.data.clients}; "
                f"found {self.train.clients_per_round}"
            )
        if not self.train.measure_memory and any(tier.memory is not None for tier in self.clients.tiers):
            raise ValueError("a tier with memory needs train.measure_memory: true, since a budget is also measured")
        for g, tier in enumerate(self.clients.tiers):
            if tier.rank is not None and tier.rank > self.model.lora.rank:
                raise ValueError(
                    f"clients.tiers.{g}.rank must be at most model.lora.rank, {self.model.lora.rank}; found {tier.rank}"
                )
        if self.model.head in ("local", "frozen", "none") and any(tier.blocks == 0 for tier in self.clients.tiers):
            raise ValueError(
                f"a tier with blocks: 0 would upload nothing, since model.head is {self.model.head}; "
                "give it a block, or choose the head prototypes or aggregate for classification"
            )
        if all(tier.blocks == 0 for tier in self.clients.tiers):
            raise ValueError("at least one tier must be able to train a block; all have blocks: 0")
        return self


# What the published code of Fed-HeLLo does where it differs from the paper, so that its logs can be compared.
# The first value is the default under parity. No experiment that comes with the code weighs by batches; it could.
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "model.pooling": ("native",),
    "model.head": ("frozen",),
    "train.loss": ("cross_entropy",),
    "train.lr_schedule": ("published",),
    "train.optimizer": ("adamw",),
    "train.weight_decay": (0.01,),
    "train.autocast": ("none",),
    "method.weighting": ("clients", "batches"),
    "method.persist": (False,),
}

INSTRUCTION: dict[str, tuple[Any, ...]] = {
    "model.task": ("instruction",),
    "model.head": ("none",),
    "model.pooling": ("native", "auto"),
    "train.loss": ("cross_entropy",),
    "train.distillation": (0.0,),
}
"""What instruction data stands for: a language model has no head, and its classes are the tokens."""


BEFORE: dict[str, Any] = {
    "model.pooling": "native",
    "model.drift_compensation": False,
    "train.selection": "last",
    "train.lr": 2e-3,
}
"""What runs of 0.1.0 did where there is a choice since."""

RATE, FOLLOWED_RATE = 2e-3, 5e-3
"""Learning rates that ``auto`` stands for: of others, and with a solved head that does not train."""

IRRELEVANT = (
    "run.name", "run.out", "run.track", "run.checkpoint_every", "run.keep", "run.wait", "run.deadline_floor",
    "run.deadline_factor",
)  # fmt: skip
"""What has no influence on a result: where the folder lies, who else is told, and what is kept on the way."""


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read, override and check a configuration.

    Args:
        path: A YAML file; None takes the defaults, which are the embedded demo.
        overrides: ``a.b=c``, later ones win; the value is YAML.

    Raises:
        ConfigError: If the file cannot be read, or a key, type or value is wrong.
    """
    raw = {} if path is None else _read(path)
    for override in overrides:
        _set(raw, override)
    return parse_config(raw)


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration that a run wrote into its folder, maybe one of an earlier version.

    It was written with every key, so one that is missing had not been thought of: it stands for what was done then.

    Raises:
        ConfigError: As ``load_config``.
    """
    raw = _read(path)
    for dotted, value in BEFORE.items():
        section, key = dotted.split(".")
        raw.setdefault(section, {}).setdefault(key, value)
    for override in overrides:
        _set(raw, override)
    return parse_config(raw)


def with_choices(config: Config) -> Config:
    """Return a configuration that says what every ``auto`` stands for, as far as it depends on nothing but settings.

    With a head that is solved, which knows all classes before anybody trains, the loss is ``cross_entropy``: what
    clients of few classes teach each other by it is worth more than by the restricted one. If the head does not train,
    it follows the features (``model.drift_compensation``), the model that validation data is surest of is handed back
    (``train.selection``), and the learning rate is 5e-3. Measured: docs/explanation/solved-heads.md. Elsewhere these
    are ``restricted``, false, ``last`` and 2e-3. Methods that train nothing, or lead to several models, have no head
    that follows and no selection, whatever is asked for, so that they can be compared with others.
    """
    solved, train, method = config.model.head == "solved", config.train, METHODS[config.method.name]
    follows = solved and not config.model.train_head
    one = method.models is the_global_model and not method.head_alone
    asked = {True: True, False: False, "auto": follows}[config.model.drift_compensation]
    model = config.model.model_copy(update={"drift_compensation": asked and one})
    found: dict[str, Any] = {}
    if train.loss == "auto":
        found["loss"] = "cross_entropy" if solved else "restricted"
    if train.lr == "auto":
        found["lr"] = FOLLOWED_RATE if follows else RATE
    chosen = {"auto": "validation" if follows else "last"}.get(train.selection, train.selection)
    found["selection"] = chosen if one else "last"
    return config.model_copy(update={"model": model, "train": train.model_copy(update=found)})


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Check a configuration given as nested mappings, and fill in every default.

    Raises:
        ConfigError: If a key, type or value is wrong.
    """
    raw = {key: value for key, value in raw.items() if value is not None}  # an empty section is no section
    config = _validated(raw)
    if config.data.kind == "instructions":
        raw = _with_fixed(raw, INSTRUCTION, "for instruction data, which has prompts with responses")
        config = _validated(raw)
    elif config.model.task == "instruction" or config.model.head == "none":
        raise ConfigError(
            "expected data.prompt and data.response beside model.task: instruction or model.head: none; found neither. "
            "Name the columns of prompts and responses, or leave task and head out."
        )
    if config.parity == "published":
        config = _validated(_with_published_semantics(raw))
    method = _resolved_method(config.method)
    _check_budgets(config, METHODS[method.name])
    _check_merging(config.model, METHODS[method.name])
    _check_defence(config, METHODS[method.name])
    _check_train(config, METHODS[method.name])
    if config.model.lora.dora:
        _check_dora(config, METHODS[method.name])
    return config.model_copy(update={"method": method})


def dump_config(config: Config) -> str:
    """Return the fully resolved configuration as YAML; reading it back gives an equal one."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_YamlDumper, sort_keys=False, allow_unicode=True)


def yaml_line(value: object) -> str:
    """Return a value as one line of YAML, which a configuration reads back as it is."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # YAML's own writer would break the line
    dumped = yaml.dump(
        value, Dumper=_YamlDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return dumped.removesuffix("...\n").strip()


def _validated(raw: Mapping[str, Any]) -> Config:
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(sentence(error, Config, "")) from error


def _check_budgets(config: Config, method: Method) -> None:
    """Check that every tier's budget is one that the method can use."""
    wanted = {"blocks": "blocks", "ranks": "rank", "either": None}[method.allocates]
    if wanted is None:
        return
    for g, tier in enumerate(config.clients.tiers):
        if tier.budget.only_counts and getattr(tier, wanted) is None:
            other = "rank" if wanted == "blocks" else "blocks"
            raise ConfigError(
                f"expected clients.tiers.{g} to state {wanted} or bytes, since {method.name} allocates "
                f"{method.allocates}; found only {other}: {getattr(tier, other)}. Add {wanted}, or choose a method "
                f"that allocates {'ranks' if other == 'rank' else 'blocks'} (see fedhello methods)."
            )


def _check_defence(config: Config, method: Method) -> None:
    """Check that a robust rule can take the place of the method's mean, and that a round has enough clients for it."""
    defence = config.defence.defence
    if defence.rule == "mean":
        return
    if not method.averages_layerwise:
        raise ConfigError(
            f"expected defence.rule=mean, since {method.name} does not average layer by layer; found {defence.rule}. "
            "defence.screen and defence.clip work with every method."
        )
    invited = 1 if method.pooled else config.train.clients_per_round
    if invited < defence.fewest:
        raise ConfigError(
            f"expected at least {defence.fewest} clients in a round for defence.rule={defence.rule} with "
            f"defence.byzantine={defence.byzantine}; found {invited}. Raise train.clients_per_round, lower "
            "defence.byzantine, or choose another rule."
        )
    quorum = math.ceil(config.train.quorum * invited - 1e-9)
    if quorum < defence.fewest and defence.clip is None:
        raise ConfigError(
            f"expected a quorum of at least {defence.fewest} clients for defence.rule={defence.rule}, since a round "
            f"with fewer is averaged; found {quorum}. Raise train.quorum to "
            f"{math.ceil(100 * defence.fewest / invited) / 100}, or set defence.clip."
        )


def rate_of(train: TrainConfig) -> float:
    """Return the learning rate of a configuration whose choices are made."""
    if isinstance(train.lr, str):
        raise ValueError("expected with_choices() before the learning rate is asked for; found auto")
    return train.lr


def _check_train(config: Config, method: Method) -> None:
    """Check that the options of training have a meaning with the method and the head."""
    model = config.model
    if config.train.selection == "validation" and model.head in ("local", "none"):
        raise ConfigError(
            "expected train.selection=last, since one global classifier is scored on the server's validation data, and "
            f"model.head is {model.head}; found validation. Choose another head, or leave it out."
        )
    if model.drift_compensation is True and (model.head != "solved" or model.train_head):
        why = "a head that trains moves by itself" if model.head == "solved" else "only a solved head is known by sums"
        raise ConfigError(
            f"expected model.drift_compensation=false or auto, since {why}; found true. Leave it out, or see "
            "model.head and model.train_head."
        )
    server = config.train.server.name
    if server == "search" and not method.steps:
        raise ConfigError(
            f"expected train.server.name=none, since {method.name} "
            + ("adds what it finds to frozen weights" if method.merges else "leads to several models")
            + ", so that a round cannot be left out afterwards; found search. Choose a method such as rgd-hla."
        )
    if server not in ("none", "search") and not method.averages_layerwise:
        raise ConfigError(
            f"expected train.server.name=none, since {method.name} does not average layer by layer, so that a change "
            f"of the global factors is no direction to step in; found {server}. Choose a method such as rgd-hla."
        )
    if server == "search" and config.model.head in ("local", "none"):
        raise ConfigError(
            "expected a head that all clients share for train.server.name=search, which scores the global model on the "
            f"server's validation data; found model.head={config.model.head}. Choose another head, or "
            "train.server.name=none."
        )
    if config.train.scaffold and (not method.averages_layerwise or method.allocates == "ranks"):
        raise ConfigError(
            f"expected train.scaffold=false, since {method.name} gives clients factors of unlike ranks or averages "
            "none, so that their drifts cannot be compared; found true. Choose a method such as rgd-hla."
        )
    if config.train.distillation and config.model.head == "local":
        raise ConfigError(
            "expected a head that all clients know for train.distillation, which keeps what the global model says of "
            "classes that a client lacks; found model.head=local. Choose another head, or train.distillation=0."
        )


def _check_merging(model: ModelConfig, method: Method) -> None:
    """Check that products are added to weights that can take them."""
    if method.merges and (model.dtype != "float32" or model.quantisation != "none"):
        raise ConfigError(
            f"expected model.dtype=float32 and model.quantisation=none, since {method.name} adds products to the "
            f"frozen weights, which coarser ones would round away; found {model.dtype} and {model.quantisation}"
        )


def _check_dora(config: Config, method: Method) -> None:
    """Check that magnitudes beside the factors fit the method and the budgets."""
    reasons = {
        "combines factors by their product, which leaves magnitudes out": not method.averages_layerwise,
        "adds products to the frozen weights, whose norms magnitudes are relative to": method.merges,
        "scores blocks by the gradients of factors, which pass through their norms under DoRA": method.uses_scores,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise ConfigError(
            f"expected model.lora.dora=false, since {method.name} {reason}; found true. Choose a method that averages "
            "layer by layer without scores, such as rgd-hla or straggler."
        )
    if any(not tier.budget.only_counts for tier in config.clients.tiers):
        raise ConfigError(
            "expected model.lora.dora=false with budgets in memory, upload or seconds, since what DoRA's norms take "
            "for a moment is not predicted; found true. Give clients.tiers blocks alone."
        )


def _resolved_method(method: MethodConfig) -> MethodConfig:
    if method.name not in METHODS:
        raise ConfigError(
            f"expected method.name to be one of {', '.join(METHODS)}; found {method.name!r}"
            + nearest(method.name, METHODS)
        )
    options = METHODS[method.name].options
    try:
        values = options.model_validate(method.options).model_dump()
    except ValidationError as error:
        raise ConfigError(sentence(error, options, f"method ({method.name}).")) from error
    return MethodConfig(name=method.name, **values)


def _with_published_semantics(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Set what ``parity: published`` stands for."""
    name = raw.get("method", {}).get("name", MethodConfig().name)
    if name in METHODS and not METHODS[name].averages_layerwise:
        raise ConfigError(
            f"expected a method that averages layer by layer under parity: published, which is about Fed-HeLLo's code; "
            f"found {name}. Leave parity out."
        )
    left_out = {
        dotted
        for dotted in PUBLISHED
        if dotted.startswith("method.")
        and name in METHODS
        and dotted.removeprefix("method.") not in METHODS[name].options.model_fields
    }
    return _with_fixed(raw, {k: v for k, v in PUBLISHED.items() if k not in left_out}, "under parity: published")


def _with_fixed(raw: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]], when: str) -> dict[str, Any]:
    """Set dotted keys to the first of their allowed values; a key that says otherwise is an error, not a mixture."""
    result: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in raw.items()}
    for dotted, allowed in fixed.items():
        section, key = dotted.split(".")
        given = result.setdefault(section, {})
        if given.setdefault(key, allowed[0]) not in allowed:
            raise ConfigError(
                f"expected {dotted} to be {' or '.join(map(repr, allowed))} {when}; found {given[key]!r}. "
                "Leave one of the two out."
            )
    return result


class _YamlLoader(yaml.SafeLoader):
    """YAML in which 5e-4 is a number, as everybody expects."""


class _YamlDumper(yaml.SafeDumper):
    """Quotes the strings that ``_YamlLoader`` would otherwise read as numbers."""


for _kind in (_YamlLoader, _YamlDumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _YamlLoader)
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets the ValueError of an impossible date out
        raise ConfigError(f"expected YAML in {where}; {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"expected a configuration file at {path}; it cannot be read: {error}") from error
    raw = _yaml(text, str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"expected {path} to hold sections such as model: and data:; found a {type(raw).__name__}")
    return raw


def _set(raw: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"expected an override such as train.rounds=5; found {override!r}")
    *sections, key = dotted.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"expected {dotted} to name a key of a section; {section} is a {type(raw).__name__}")
    raw[key] = _yaml(value, f"the override {override!r}")
