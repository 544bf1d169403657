import torch

from fedhello.client.tally import Tally
from fedhello.data.batches import Batch


def test_the_loss_is_the_mean_over_samples_and_the_first_batch_is_the_widest():
    tally = Tally(torch.zeros((), dtype=torch.float64))
    for samples, tokens, loss in ((3, 7, 2.0), (1, 5, 4.0)):
        ids = torch.ones(samples, tokens, dtype=torch.int64)
        batch = Batch({"input_ids": ids, "attention_mask": ids}, torch.zeros(samples, dtype=torch.int64))
        tally.add(batch, samples, torch.tensor(loss), torch.tensor(loss + 1))
    assert tally.metrics(epochs=2, seconds=1.5) == {
        "loss": 2.5, "samples": 4, "steps": 2, "batches": 1, "tokens": 26, "widest_samples": 3, "widest_tokens": 7,
        "seconds": 1.5,
    }  # fmt: skip
    assert [float(value) for value in tally.first] == [2.0, 3.0]
