"""The configuration: one YAML file, every key checked, overridable as ``a.b=c``; the defaults are the embedded demo.

``fedhello.setup.prepare`` turns a configuration into plain settings; the code that runs does not see it.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedhello.aggregation.bound import MAX_NORM
from fedhello.aggregation.robust import Defence, RobustRule
from fedhello.aggregation.share import MAX_SHARE
from fedhello.config.partitions import Natural, Partition, Pathological
from fedhello.config.section import Named, Section
from fedhello.config.training import TrainConfig
from fedhello.config.units import (
    Bytes,
    CountOrName,
    Encoding,
    Name,
    Rounds,
    Share,
    ShareOrName,
    Shrinkage,
    Speed,
    Template,
    TextColumns,
)
from fedhello.data.dataset import UNNAMED, Columns, Kind
from fedhello.data.embedded_sets import EMBEDDED_DATA
from fedhello.embedded import PREFIX
from fedhello.model.head import HeadPolicy, Priors, Solver
from fedhello.model.injection import ATTENTION_QV
from fedhello.model.pooling import Pooling
from fedhello.model.quantisation import Quantisation
from fedhello.state import Unit
from fedhello.types import Budget


class LoraConfig(Section):
    """How LoRA is placed: h = W₀x + (alpha/rank)·B A x, with rslora h = W₀x + (alpha/√rank)·B A x."""

    rank: int = Field(8, ge=1, le=2**16)
    alpha: float = Field(8, gt=0)
    dropout: Share = Field(0.0, ge=0, lt=1)
    targets: Literal["attention-qv", "attention", "all-linear"] | Annotated[list[str], Field(min_length=1)] = (
        ATTENTION_QV
    )
    rslora: bool = False
    dora: bool = False


class Sketch(Section):
    """Second moments of features projected to ``sketch`` dimensions."""

    sketch: int = Field(ge=1, le=2**16)


class ModelConfig(Section):
    """The foundation model, its task and its head."""

    name: str = Field("embedded:minilm", min_length=1)
    revision: str | None = None
    task: Literal["classification", "instruction"] = "classification"
    pooling: Literal["auto"] | Pooling = "auto"
    head_module: Name | None = None
    features: int | None = Field(None, ge=1)
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
    forgetting: Share = Field(0.5, ge=0, le=1)
    final: bool = True
    lora: LoraConfig = LoraConfig()
    adapter: Annotated[str, Field(min_length=1)] | None = None
    frozen_dropout: bool = True
    attention: Literal["auto", "default", "eager", "sdpa"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantisation: Quantisation = "none"
    pad_token: str | None = Field(None, min_length=1)


class DataConfig(Section):
    """The data set, the server's share of it, and how the rest is split over clients."""

    name: Name = "embedded:bbc-headlines"
    encoding: Encoding | None = None
    split: Name | None = None
    text: TextColumns = "text"
    label: Name = "label"
    image: Name | None = None
    tensor: Name | None = None
    prompt: Template | None = None
    response: Template | None = None
    samples: int | None = Field(None, ge=1)
    held_out_samples: int | None = Field(None, ge=1)
    clients: int = Field(20, ge=1, le=10**6)
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
        """The columns of the data set, by their role."""
        text = self.text if isinstance(self.text, str) else (self.text[0], self.text[1])
        group = self.partition.column if isinstance(self.partition, Natural) else None
        return Columns(text, self.label, self.image, self.prompt, self.response, group, self.tensor)

    @property
    def kind(self) -> Kind | None:
        """The kind of a sample: text, image, tensor, or prompt with response; None if only the data set tells."""
        columns = self.columns
        if replace(columns, group=None) != UNNAMED:
            return columns.kind
        embedded_set = EMBEDDED_DATA.get(self.name.removeprefix(PREFIX)) if self.name.startswith(PREFIX) else None
        return None if embedded_set is None else embedded_set.columns.kind

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> "DataConfig":
        validation, test = (0.0 if isinstance(part, str) else part for part in (self.validation, self.test))
        if validation + test >= 1:
            raise ValueError(f"validation and test must leave data to train on; found {validation} + {test} ≥ 1")
        return self

    @model_validator(mode="after")
    def _cap_what_is_given(self) -> "DataConfig":
        if self.held_out_samples is not None and not any(
            isinstance(part, str) for part in (self.validation, self.test)
        ):
            raise ValueError(
                "held_out_samples needs validation or test to name a file or a split; found shares. Leave it out"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_sample(self) -> "DataConfig":
        if (self.prompt is None) != (self.response is None):
            given, lacking = ("prompt", "response") if self.response is None else ("response", "prompt")
            raise ValueError(f"instruction data has a prompt and a response; found {given} without {lacking}")
        kinds = {"text": self.text != "text", "image": self.image is not None, "tensor": self.tensor is not None}
        kinds["prompt"] = self.prompt is not None
        named = [key for key, is_named in kinds.items() if is_named]
        if len(named) > 1:
            raise ValueError(
                f"a sample is a text, an image, a tensor or a prompt with a response; found {' and '.join(named)}"
            )
        if not isinstance(self.text, str) and self.text[0] == self.text[1]:
            raise ValueError(f"a pair of texts has two columns; found {self.text[0]!r} twice")
        return self


class TierConfig(Section):
    """A share of the clients, and the budget of each of them."""

    share: Share = Field(gt=0, le=1)
    blocks: int | None = Field(None, ge=0)
    rank: int | None = Field(None, ge=1)
    memory: Bytes | None = None
    upload: Bytes | None = None
    seconds: float | None = Field(None, gt=0)
    speed: Speed | None = None
    cache: Bytes | None = None

    @model_serializer(mode="wrap")
    def _what_is_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}

    @property
    def budget(self) -> Budget:
        """The budget of each client of the tier."""
        return Budget(self.blocks, self.memory, self.upload, self.seconds, self.speed, self.rank, self.cache)

    @model_validator(mode="after")
    def _affords_something(self) -> "TierConfig":
        if self.blocks is None and self.rank is None and self.budget.only_counts:
            raise ValueError("a tier needs blocks, rank, memory, upload or seconds; found none of them")
        if self.speed is not None and self.seconds is None:
            raise ValueError("a tier's speed needs seconds beside it; found none. Add seconds, or leave speed out")
        return self


class ClientsConfig(Section):
    """The tiers; clients are assigned to them by id, in this order. ``dropout`` simulates lost clients."""

    tiers: list[TierConfig] = Field(
        default=[
            TierConfig(share=1 / 3, blocks=2),
            TierConfig(share=1 / 3, blocks=4),
            TierConfig(share=1 / 3, blocks=6),
        ],
        min_length=1,
    )
    dropout: Share = Field(0.0, ge=0, lt=1)

    @field_validator("tiers")
    @classmethod
    def _shares_sum_to_one(cls, tiers: list[TierConfig]) -> list[TierConfig]:
        total = sum(tier.share for tier in tiers)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the tiers must sum to 1, they sum to {total:g}")
        return tiers


class MethodConfig(Named):
    """The name of a method, with its options as further keys."""

    name: str = "fed-hello"


class DefenceConfig(Section):
    """Protection against faulty or malicious clients."""

    screen: float | None = Field(None, gt=1)
    clip: float | None = Field(None, gt=0)
    rule: RobustRule = "mean"
    byzantine: int = Field(1, ge=0)
    max_share: float | None = Field(MAX_SHARE, ge=1)
    max_norm: float | None = Field(MAX_NORM, gt=1)

    @property
    def defence(self) -> Defence:
        """The settings as the aggregation takes them."""
        return Defence(self.screen, self.clip, self.rule, self.byzantine, self.max_share, self.max_norm)


class PrivacyConfig(Section):
    """What of a client may be seen by the server, and how much of it can be told from the result."""

    secure: bool = False
    limit: float = Field(2.0, gt=0)
    group: int = Field(50, ge=3, le=200)
    cohorts: int | None = Field(None, ge=3)
    epsilon: float | None = Field(None, ge=0.01, le=1000)
    delta: float = Field(1e-5, ge=1e-12, lt=1)
    unit: Unit = "client"
    clip: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    head: Literal["means", "moments"] = "means"
    split: Share = Field(0.5, gt=0, lt=1)
    score_split: Share = Field(0.2, gt=0, lt=1)
    update_clip: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    factors: Literal["B", "AB"] = "B"
    last_blocks: int | None = Field(2, ge=1)
    mechanism: Literal["gaussian", "banded"] = "gaussian"
    band: Literal["auto"] | Annotated[int, Field(ge=2)] = "auto"


def _folder_name(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError("expected a name without / or \\ that does not begin with a dot")
    return name


class RunConfig(Section):
    """Seed, engine, device, folder and trackers of a run."""

    seed: int = Field(0, ge=0)
    engine: Literal["local", "batched", "flower"] = "local"
    wait: float = Field(600.0, gt=0)
    deadline_floor: float = Field(30.0, gt=0)
    deadline_factor: float = Field(3.0, ge=1)
    device: str = "auto"
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    cache_folder: str | None = None
    out: str = "runs"
    name: Annotated[str, AfterValidator(_folder_name)] | None = None
    checkpoint_every: int = Field(1, ge=1)
    keep: int = Field(3, ge=1)
    track: Annotated[
        list[Literal["jsonl", "tensorboard", "wandb", "mlflow"]],
        AfterValidator(lambda names: list(dict.fromkeys(["jsonl", *names]))),  # rounds.jsonl is written in any case
    ] = Field(["jsonl"])
    metrics: list[Name] = Field([])


class Config(Section):
    """A whole configuration.

    Every key is described in docs/reference/configuration.md; units are bytes, seconds and FLOP/s.

    Attributes:
        model: The foundation model, its task, its adapter and its head.
        data: The data set and its split over server and clients.
        clients: The tiers and their budgets.
        method: The method's name and options.
        train: Rounds, local training and the server's optimiser.
        defence: Protection against faulty or malicious clients.
        privacy: What of a client the server can see.
        run: Seed, folder, engine and device.
        parity: ``corrected``, or ``published`` to follow Fed-HeLLo's published code where it differs.

    Example:
        >>> config = fh.load_config("my.yaml")
        >>> config.train.rounds, config.model.lora.rank
        (2, 4)
    """

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    clients: ClientsConfig = ClientsConfig()
    method: MethodConfig = MethodConfig()
    train: TrainConfig = TrainConfig()
    defence: DefenceConfig = DefenceConfig()
    privacy: PrivacyConfig = PrivacyConfig()
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
            raise ValueError("a tier with memory needs train.measure_memory: true, to check the budget by measurement")
        for g, tier in enumerate(self.clients.tiers):
            if tier.rank is not None and tier.rank > self.model.lora.rank:
                raise ValueError(
                    f"clients.tiers.{g}.rank must be at most model.lora.rank, {self.model.lora.rank}; found {tier.rank}"
                )
        if self.model.head in ("local", "frozen", "none") and any(tier.blocks == 0 for tier in self.clients.tiers):
            raise ValueError(
                f"a tier with blocks: 0 uploads nothing, since model.head is {self.model.head}; "
                "give it a block, or choose the head prototypes or aggregate for classification"
            )
        if all(tier.blocks == 0 for tier in self.clients.tiers):
            raise ValueError("at least one tier must be able to train a block; all have blocks: 0")
        return self
