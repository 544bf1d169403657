"""The section ``train`` of a configuration: rounds, local training and the server's optimiser."""

from typing import Annotated, Literal

from pydantic import Field

from fedhello.aggregation.server import ServerOptimizer, ServerStep
from fedhello.client.settings import LearningRateSchedule, OptimizerName
from fedhello.config.section import Section
from fedhello.config.units import Name, Rate, Share
from fedhello.costs import ActivationRule
from fedhello.state import Watched


class ServerConfig(Section):
    """The server's optimiser; ``lr: null`` is 1 for ``avgm`` and 0.01 for the adaptive ones."""

    name: ServerOptimizer = "none"
    lr: float | None = Field(None, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.99, ge=0, lt=1)
    tau: float = Field(1e-3, gt=0)

    @property
    def step(self) -> ServerStep:
        """The settings as the aggregation takes them."""
        lr = (1.0 if self.name == "avgm" else 0.01) if self.lr is None else self.lr
        return ServerStep(self.name, lr, self.beta1, self.beta2, self.tau)


class StopConfig(Section):
    """When a run stops before its last round: after ``patience`` scored rounds without an improvement."""

    patience: int = Field(ge=1)
    min_delta: float = Field(0.0, ge=0)
    metric: Watched = "validation_accuracy"


class TrainConfig(Section):
    """Rounds, local training and the server's optimiser."""

    rounds: int = Field(20, ge=1)
    clients_per_round: int = Field(5, ge=1)
    sampling: Literal["fixed", "poisson"] = "fixed"
    over_selection: float = Field(1.0, ge=1)
    quorum: Share = Field(0.5, gt=0, le=1)
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
    loss: Name = "auto"
    adjustment: float = Field(1.0, ge=0)
    proximal: float = Field(0.0, ge=0)
    scaffold: bool = False
    distillation: float = Field(0.0, ge=0)
    distillation_temperature: float = Field(1.0, gt=0)
    server: ServerConfig = ServerConfig()
    selection: Literal["auto", "last", "validation"] = "auto"
    autocast: Literal["auto", "none", "bfloat16"] = "auto"
    activations: ActivationRule = "auto"
    tangents: int = Field(4, ge=1)
    measure_memory: bool = True
    evaluate_every: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    stop: StopConfig | None = None
    target: Share | None = Field(None, gt=0, le=1)
