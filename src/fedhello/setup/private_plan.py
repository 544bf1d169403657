"""From a configuration to the releases of a run under differential privacy, and to the method that makes them."""

from dataclasses import dataclass

import numpy as np

from fedhello.client.cost_model import Shape, batch_shapes
from fedhello.client.settings import TrainingSettings
from fedhello.config.schema import Config
from fedhello.config.settings import private_plan, sample_plan
from fedhello.data.batches import Samples
from fedhello.data.dataset import Kind
from fedhello.data.memory import MEMORY
from fedhello.data.split import Split
from fedhello.method import Method
from fedhello.model.adapter import LoraModel
from fedhello.model.private_sums import PrivatePlan
from fedhello.privacy.rounds import private_method
from fedhello.privacy.samples import sample_method
from fedhello.setup.private import check_steps, check_turns, first_clip, most_rounds
from fedhello.strategy import BoundMethod
from fedhello.types import Federation


def protects_samples(config: Config, method: Method) -> bool:
    """Whether clients train by steps that protect single samples."""
    return config.privacy.epsilon is not None and config.privacy.unit == "sample" and not method.head_alone


def autocast_of(config: Config, method: Method) -> str:
    """Return the number type of the forward pass, which steps on single samples fix."""
    return "none" if protects_samples(config, method) else config.train.autocast


def attention_is_free(config: Config) -> bool:
    """Whether attention may be computed in the fastest way: not in a user's model, nor where a budget limits memory."""
    limited = any(tier.memory is not None for tier in config.clients.tiers)
    return config.model.attention == "auto" and config.model.name != MEMORY and not limited


def longest_shapes(config: Config, kind: Kind, tokens: int, samples: int = 1) -> tuple[Shape, list[Shape]]:
    """Return the widest batch and the batches of a client of whose data their number is known at most.

    Args:
        config: The configuration.
        kind: Of the samples.
        tokens: Of a sample that is no text, such as an image, which all have.
        samples: Their number; a client is taken to have a full batch at least.
    """
    longest = config.data.max_length if kind in ("texts", "pairs") else tokens
    most = max(samples, config.train.batch_size)
    return batch_shapes(np.full(most, longest), config.train.batch_size, config.train.epochs)


@dataclass(frozen=True)
class PrivateSetup:
    """What the releases of a run follow from.

    Attributes:
        config: The configuration, with a budget.
        row: The method's row of the table of methods.
        method: The method with its options.
        model: The model.
        federation: The clients, with their samples.
        settings: The settings of local training.
    """

    config: Config
    row: Method
    method: BoundMethod
    model: LoraModel
    federation: Federation
    settings: TrainingSettings

    @property
    def protects_samples(self) -> bool:
        """Whether clients train by steps that protect single samples."""
        return protects_samples(self.config, self.row)

    def on_clients(self) -> tuple[PrivatePlan, BoundMethod]:
        """Return the releases and the method of a run whose rounds protect whole clients, or that trains nothing."""
        privacy, clip, method = self.config.privacy, None, self.method
        if not self.row.head_alone:
            clip = first_clip(self.model, privacy.factors, privacy.last_blocks, self.settings.lr)
        by_clients = self.row.uses_scores and method.scoring.source == "clients"
        scored = sum(method.scores_due(t) for t in range(self.settings.rounds)) if by_clients else 0
        check_turns(self.federation)
        plan = private_plan(self.config, len(self.federation.clients), clip, scored)
        assert plan is not None
        return plan, method if plan.rounds is None else private_method(method, plan.rounds)

    def on_samples(self, samples: Samples, split: Split) -> tuple[PrivatePlan, BoundMethod]:
        """Return the releases and the method of a run whose clients train by steps that protect single samples.

        Args:
            samples: All of the data set.
            split: The server's among them.

        Raises:
            ModelError: If gradients of single samples cannot be computed.
        """
        check_steps(self.model, self.config.privacy.factors, samples.batch(split.validation[:2]))
        smallest = min(client.samples for client in self.federation.clients)
        plan = sample_plan(self.config, smallest, most_rounds(self.federation, self.settings.rounds))
        assert plan.steps is not None
        return plan, sample_method(self.method, plan.steps)
