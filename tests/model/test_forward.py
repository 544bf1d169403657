import numpy as np
import pytest
import torch

from fedhello.client.memory import StepMemory
from fedhello.data.batches import IGNORED, Batch
from fedhello.errors import DataError
from fedhello.model.forward import predictions


def test_a_language_models_loss_is_the_one_of_transformers(speaker, dialogues):
    batch = dialogues.batch(np.arange(7))
    found = predictions(speaker, batch)
    assert len(found.z) == int((batch.labels != IGNORED).sum())
    loss = torch.nn.functional.cross_entropy(found.z, found.y)
    expected = speaker.module(**batch.inputs, labels=batch.labels).loss
    assert torch.allclose(loss, expected, atol=1e-6)


def test_only_responses_get_logits(speaker, dialogues):
    batch = dialogues.batch(np.arange(7))
    with StepMemory(speaker.module.parameters()) as few:
        predictions(speaker, batch)
    everything = Batch(batch.inputs, torch.where(batch.inputs["attention_mask"] == 1, batch.inputs["input_ids"], -100))
    with StepMemory(speaker.module.parameters()) as many:
        predictions(speaker, everything)
    assert few.saved_bytes < many.saved_bytes


def test_predictions_know_their_samples(speaker, dialogues):
    batch = dialogues.batch(np.arange(7))
    found = predictions(speaker, batch)
    counts = [len(t) - a for t, a in zip(dialogues.tokens, dialogues.answers, strict=True)]
    assert torch.bincount(found.sample).tolist() == counts


def test_a_batch_without_labels_is_refused(speaker, dialogues):
    batch = dialogues.batch(np.arange(2))
    with pytest.raises(DataError, match="none of its tokens has one"):
        predictions(speaker, Batch(batch.inputs, torch.full_like(batch.labels, IGNORED)))
