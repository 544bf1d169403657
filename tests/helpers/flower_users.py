"""What users of fedhello in their own Flower apps have: a model, data, a training loop, and apps of both ends."""

import numpy as np
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from transformers import BertConfig, BertForSequenceClassification

from fedhello import flower

L, CLASSES, RANK = 3, 3, 4


def net(seed=0, rank=RANK, **more):
    """What a user's ``Net()`` returns, with the one line that is changed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=50, hidden_size=8, num_hidden_layers=L, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=32, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return flower.with_lora(BertForSequenceClassification(config), rank=rank, **more)


def loader(k, batches=2):
    """The data of client k: batches of four, and one sample more for each id."""
    rng = np.random.default_rng(k)
    sizes = [4] * batches + [1 + k]
    return [
        {
            "input_ids": torch.from_numpy(rng.integers(1, 50, size=(n, 6))),
            "attention_mask": torch.ones(n, 6, dtype=torch.int64),
            "labels": torch.from_numpy(rng.integers(CLASSES, size=n)),
        }
        for n in sizes
    ]


def train_fn(model, batches, lr):
    """The user's own."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, weight_decay=0.1)
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def client_app(k, model=net, train=train_fn, data=None):
    """The user's ClientApp, with the three lines that are changed."""
    app = ClientApp()
    flower.register(app, data)

    @app.train()
    def on_train(msg, context):
        own = model()
        allotted = flower.prepare(own, msg)
        loss = train(own, loader(k), msg.content["config"]["lr"])
        metrics = MetricRecord({"train_loss": loss, "num-examples": sum(len(b["labels"]) for b in loader(k))})
        return Message(RecordDict({"arrays": allotted.arrays(), "metrics": metrics}), reply_to=msg)

    @app.evaluate()
    def on_evaluate(msg, context):
        own = model()
        flower.load(own, msg.content["arrays"])
        with torch.no_grad():
            loss = sum(float(own(**b).loss) for b in loader(k))
        return Message(RecordDict({"m": MetricRecord({"eval_loss": loss, "num-examples": 1 + k})}), reply_to=msg)

    return app


def connect(grid, capacities=(1, 3), **more):
    return [grid.connect(client_app(k, **more), blocks=c, **{"partition-id": k}) for k, c in enumerate(capacities)]


def start(strategy, grid, model, rounds=1, lr=0.5, **more):
    return strategy.start(
        grid, flower.arrays(model), num_rounds=rounds, train_config=ConfigRecord({"lr": lr}), **more
    )  # fmt: skip


def tensors(arrays):
    return {name: torch.from_numpy(array.numpy()) for name, array in arrays.items()}
