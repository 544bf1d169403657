"""What a client states of its data, in plain and where that may tell nothing of them."""

import numpy as np
import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError
from fedhello.network.stated import MOST_BATCHES, stated_of

PRIVATE = ["privacy.epsilon=8", "method.name=head-only"]


class OfLengths:
    def __init__(self, *lengths):
        self.of = np.array(lengths)

    def __len__(self):
        return len(self.of)

    def lengths(self):
        return self.of


def stated(samples, *words, on_samples=False):
    config = load_config(None, ["train.batch_size=2", "train.epochs=1", "data.max_length=16", *words])
    return stated_of(config, samples, [0, 2], on_samples)


def test_without_privacy_it_is_that_of_the_data():
    assert stated(OfLengths(3, 7, 5)) == (3, (0, 2), (2, 7), [(2, 5), (1, 7)])


@pytest.mark.parametrize("lengths", [(3, 7, 5), (16,), (1, 1, 1, 1, 1)])
def test_under_privacy_it_is_the_same_whatever_the_data_but_for_their_number_where_that_is_known(lengths):
    samples = OfLengths(*lengths)
    assert stated(samples, *PRIVATE) == (1, (), (2, 16), [(2, 16)])
    known = stated(samples, *PRIVATE, on_samples=True)
    assert (known.samples, known.classes, known.widest) == (len(samples), (), (2, 16))
    assert sum(b for b, _ in known.batches) == max(2, len(samples)) and {t for _, t in known.batches} == {16}


def test_a_server_that_asks_for_endless_batches_is_refused():
    with pytest.raises(ConfigError, match=rf"at most {MOST_BATCHES} batches per round; .*they would be {2**23}"):
        stated(OfLengths(3, 7, 5), f"train.epochs={2**22}")
