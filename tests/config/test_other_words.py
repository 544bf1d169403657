import pytest

from fedhello.config.messages import _every_key
from fedhello.config.other_words import OTHER_WORDS, called_here

EVERY = set(_every_key())


@pytest.mark.parametrize("word", OTHER_WORDS)
def test_a_word_of_another_tool_is_no_key_and_means_one(word):
    assert word == word.lower() and word not in {key.rpartition(".")[2] for key in EVERY}
    assert set(OTHER_WORDS[word]) <= EVERY


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("early_stopping", "train.stop"), ("Learning-Rate", "train.lr"), ("num_clients", "data.clients"),
        ("batch", "train.batch_size"), ("local_epochs", "train.epochs"), ("lora_r", "model.lora.rank"),
        ("target_modules", "model.lora.targets"), ("fraction_fit", "train.clients_per_round"),
        ("proximal_mu", "train.proximal"), ("output_dir", "run.out"), ("target_accuracy", "train.target"),
    ],
)  # fmt: skip
def test_common_words_lead_to_the_key_of_that_meaning(word, key):
    assert called_here(word) == (key,)


def test_a_word_that_no_tool_has_means_nothing():
    assert called_here("warp_factor") == ()
