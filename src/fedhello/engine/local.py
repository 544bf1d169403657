"""The local engine: all clients in this process, one after the other, on one model in memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from fedhello.allocation.bytes import needs
from fedhello.client.memory import gpu_limit
from fedhello.client.prediction import StepCosts
from fedhello.client.training import Assignment, TrainingSettings, local_training
from fedhello.data.batches import Samples
from fedhello.engine.wire import Expected, decode_update, encode_task, encode_tensors, encode_update
from fedhello.errors import UpdateError
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import pooled_features
from fedhello.model.head import ClassSums, class_sums
from fedhello.types import Allocation, Client, Federation, Task, Update


@dataclass
class LocalEngine:
    """Trains clients on their own data with one shared model; nothing is copied per client but the adapter.

    Updates pass the same encoding and checks as on a network, so the bytes counted are those that a network
    would carry.

    Attributes:
        model: Serves one client at a time.
        federation: The clients.
        data: Client → its training samples.
        settings: How clients train.
        personal_heads: Client → its own head, for the head policy ``local``; None where heads are not personal.
        costs: What steps hold by allocation; None predicts nothing.
        initial_head: The head's tensors as the engine found them: where every personal head starts.
    """

    model: LoraModel
    federation: Federation
    data: Mapping[int, Samples]
    settings: TrainingSettings
    personal_heads: dict[int, dict[str, Tensor]] | None = None
    costs: StepCosts | None = None
    initial_head: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.initial_head = self.model.read(self.model.head_names)

    def train(self, tasks: Iterable[Task]) -> Iterator[Update]:
        """Train the clients of a round, in ascending id, and yield their updates one by one.

        Args:
            tasks: What each of them starts from and trains.

        Raises:
            UpdateError: If a client's training fails.
        """
        clients = {client.id: client for client in self.federation.clients}
        heads: dict[int, dict[str, Tensor]] = {}
        for task in tasks:
            k, client = task.client, clients[task.client]
            names = task.adapter.names(task.allocation)
            personal = self._put_personal_head(k)
            values, metrics = self._train_one(task, client, (*names, *personal))
            heads |= {k: {name: values.pop(name) for name in personal}} if personal else {}
            payload = encode_update(Update(k, task.round, client.samples, values, metrics))
            expected = Expected(k, task.round, client.samples, {name: task.adapter.tensors[name] for name in names})
            update = decode_update(payload, expected, len(encode_task(task)))
            yield replace(update, metrics={**update.metrics, **self._predicted(update, task.allocation)})
        # A round that breaks off leaves everybody's head as it was before it.
        self.personal_heads = None if self.personal_heads is None else self.personal_heads | heads

    def _train_one(
        self, task: Task, client: Client, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Train one client; afterwards the model holds its factors, but no personal head."""
        self.model.write(task.adapter.tensors)
        work = Assignment(
            client=client.id,
            round=task.round,
            names=names,
            data=self.data[client.id],
            classes=client.classes,
            seed=self.federation.seed,
            policies=task.allocation.policies,
            absent=task.allocation.absent,
        )
        try:
            with gpu_limit(self.model.device, client.budget.memory):
                return local_training(self.model, work, self.settings)
        except torch.OutOfMemoryError as error:
            raise UpdateError(
                f"expected client {client.id} in round {task.round} to train within {client.budget.memory} bytes; the "
                f"device has no more: {str(error).splitlines()[0]} Lower train.batch_size or the tier's memory."
            ) from error
        finally:
            # What the server scores and saves next must not hold one client's private head.
            self.model.write(self.initial_head if self.personal_heads is not None else {})

    def _predicted(self, update: Update, allocation: Allocation) -> dict[str, float]:
        """Return what the client's widest step was predicted to take; the server knows it without being told."""
        if self.costs is None:
            return {}
        shape = int(update.metrics["widest_samples"]), int(update.metrics["widest_tokens"])
        found = needs(self.costs.at(shape), allocation, first_step=update.metrics["steps"] == 1)
        return {
            "predicted_saved_bytes": found.saved_bytes,
            "predicted_peak_bytes": found.peak_bytes,
            "predicted_memory_bytes": found.memory_bytes,
        }

    def class_sums(self) -> Iterator[tuple[ClassSums, int]]:
        """Yield every client's contribution to the class prototypes and its bytes, in ascending id."""
        for k in sorted(self.data):
            features = pooled_features(self.model, self.data[k])
            sums = class_sums(features, torch.from_numpy(self.data[k].labels), self.model.classes)
            yield sums, len(encode_tensors(asdict(sums)))

    def _put_personal_head(self, k: int) -> tuple[str, ...]:
        """Put client k's own head into the model and return its tensors' names; nothing if heads are shared."""
        if self.personal_heads is None:
            return ()
        self.model.write(self.personal_heads.get(k, self.initial_head))
        return self.model.head_names
