"""Distillation: between models on the server's public set, and from the global model on a client's own data.

Deep mutual learning on the public set (Zhang et al. 2018): for model r, with z_r its logits and z̄_r the mean of the
other models' logits (or of all),

    minimise  T² KL( softmax(z̄_r / T) ‖ softmax(z_r / T) )

over the public set, without its labels. Teachers predict once per epoch, in evaluation mode, so they are the models at
the epoch's start; students train in training mode, one after the other, on the one foundation model in memory.

Not-true distillation on a client (Lee et al. 2022, "Preservation of the global knowledge by not-true distillation in
federated learning", FedNTD, arXiv 2106.03097): beside the loss on its data, a client minimises

    λ T² KL( softmax(z^t_{c≠y} / T) ‖ softmax(z_{c≠y} / T) ),        z^t = logits of the model that it received

over its samples, both softmax without the sample's own class y. So the client's model keeps the global model's relative
predictions for all other classes, including those that the client lacks, and can still raise the true class.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from fedhello.client.mode import set_training
from fedhello.data.batches import Samples, training_batches
from fedhello.model.adapter import LoraModel
from fedhello.model.evaluation import logits
from fedhello.model.forward import predictions
from fedhello.model.number_type import in_bfloat16
from fedhello.randomness import generator, integer_seed
from fedhello.strategy import Distillation
from fedhello.types import Adapter, Allocation


def learn_from_each_other(
    model: LoraModel, public: Samples, models: Sequence[Adapter], how: Distillation, seed: int, t: int
) -> list[Adapter]:
    """Return the models after ``how.epochs`` passes over the public set.

    Args:
        model: The foundation model; it holds one model's adapter after the other.
        public: At least one sample; labels are not used.
        models: At least two, of any ranks.
        how: Teachers, temperature, epochs, learning rate and batch size.
        seed: The run's.
        t: The round.
    """
    learnt = list(models)
    for epoch in range(how.epochs):
        z = []
        for adapter in learnt:
            model.write(adapter.tensors)
            z.append(logits(model, public))
        total = torch.stack(z).sum(dim=0)
        for i, adapter in enumerate(learnt):
            teacher = total / len(z) if how.teachers == "all" else (total - z[i]) / (len(z) - 1)
            learnt[i] = _taught(model, public, adapter, teacher, how, (seed, t, i, epoch))
    return learnt


def _taught(
    model: LoraModel,
    public: Samples,
    adapter: Adapter,
    teacher: Tensor,
    how: Distillation,
    stream: tuple[int, int, int, int],
) -> Adapter:
    seed, t, i, epoch = stream
    model.write(adapter.tensors)
    names = adapter.names(Allocation(tuple(range(model.blocks.count))))
    optimizer = torch.optim.AdamW(model.set_trainable(names), lr=how.lr, weight_decay=0.0)
    set_training(model, 0)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(integer_seed(seed, "distillation", t, i, epoch))
        order = generator(seed, "public order", t, i, epoch)
        for positions in training_batches(public.lengths(), how.batch_size, order):
            z = model.module(**public.batch(positions).to(model.device).inputs).logits
            loss = distillation_loss(z, teacher[np.asarray(positions)].to(z.device), how.temperature)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return adapter.with_tensors(model.read(names))


def teacher_logits(
    model: LoraModel, data: Samples, batch_size: int, autocast: bool, order: np.random.Generator
) -> Tensor:
    """Return the model's logits of a client's samples before it trains, float32 on the CPU, shape (n, C).

    The model is in evaluation mode and runs without autograd, in batches as in training, so no batch takes more memory
    than a training step. The result takes 4nC bytes.

    Args:
        model: The model as the client received it.
        data: The client's samples.
        batch_size: Largest batch.
        autocast: Whether forward passes run in bf16 autocast.
        order: Draws the order of the batches, which changes the result by rounding only.
    """
    z = torch.empty(len(data), model.num_labels)
    model.module.eval()
    with torch.inference_mode(), in_bfloat16(model, autocast):
        for positions in training_batches(data.lengths(), batch_size, order):
            batch = data.batch(positions).to(model.device)
            z[torch.from_numpy(positions)] = predictions(model, batch).z.cpu()
    return z


def not_true_loss(z: Tensor, y: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(softmax(teacher_{c≠y}/T) ‖ softmax(z_{c≠y}/T)), the mean over samples; 0 where C = 2.

    Args:
        z: Logits, shape (n, C).
        y: Classes, shape (n,).
        teacher: Logits of the teacher, shape (n, C).
        temperature: T > 0.
    """
    others = torch.ones_like(z, dtype=torch.bool).scatter_(1, y.unsqueeze(1), False)
    shape = len(z), z.shape[1] - 1
    return distillation_loss(z[others].view(shape), teacher[others].view(shape), temperature)


def distillation_loss(z: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² KL(softmax(teacher/T) ‖ softmax(z/T)), the mean over the batch; both of shape (b, C)."""
    student = log_softmax(z.float() / temperature, dim=1)
    target = log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * kl_div(student, target, reduction="batchmean", log_target=True)
