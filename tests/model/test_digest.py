from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fedhello.model.digest import VALUES, digest_of, processor_digest
from fedhello.model.images import Preparation


def test_a_digest_is_of_names_types_shapes_and_values():
    weight = torch.arange(6.0)
    base = digest_of([("w", weight)])
    assert digest_of([("w", weight.clone())]) == base
    others = [("v", weight), ("w", weight.double()), ("w", weight.reshape(2, 3)), ("w", weight + 1)]
    assert len({base, *(digest_of([one]) for one in others)}) == 5
    assert digest_of([("w", weight), ("v", weight)]) != digest_of([("v", weight), ("w", weight)])


def test_of_a_large_tensor_some_values_count_spread_over_all_of_it():
    weight = torch.zeros(100 * VALUES)
    base = digest_of([("w", weight)])
    assert digest_of([("w", weight + torch.linspace(0, 1, len(weight)))]) != base
    for i in (0, 50 * VALUES - 50 * VALUES % 100, 100 * VALUES - 100):
        changed = weight.clone()
        changed[i] = 1
        assert digest_of([("w", changed)]) != base, i


def test_weights_in_bf16_have_one_too():
    assert digest_of([("w", torch.ones(3, dtype=torch.bfloat16))]) != digest_of([("w", torch.ones(3))])


def tokenizer(words=("red", "green"), lowercase=False, **more):
    parts = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", "[PAD]", *words])}, "[UNK]"))
    parts.pre_tokenizer = pre_tokenizers.Whitespace()
    if lowercase:
        parts.normalizer = normalizers.Lowercase()
    return PreTrainedTokenizerFast(tokenizer_object=parts, unk_token="[UNK]", **{"pad_token": "[PAD]", **more})


def test_of_a_tokenizer_count_its_words_and_what_it_makes_of_texts_and_not_what_it_was_used_for():
    base = processor_digest(tokenizer(("fox", "quick")))
    used = tokenizer(("fox", "quick"))
    used(["red red red"], truncation=True, max_length=2, padding="max_length")
    assert processor_digest(used) == base
    others = [
        tokenizer(("quick", "fox")), tokenizer(("fox", "quick", "new")), tokenizer(("fox", "quick"), pad_token="fox"),
        tokenizer(("fox", "quick"), chat_template="{{ messages }}"),
    ]  # fmt: skip
    assert len({base, *map(processor_digest, others)}) == 5
    assert processor_digest(tokenizer(("the", "fox"), True)) != processor_digest(tokenizer(("the", "fox")))


def test_of_images_count_their_shape_and_values_and_of_numbers_nothing():
    base = Preparation((1, 8, 8), (0.5,), (0.5,))
    others = [Preparation((1, 8, 9), (0.5,), (0.5,)), Preparation((1, 8, 8), (0.5,), (0.25,))]
    assert len({processor_digest(None, one) for one in (base, *others)}) == 3
    assert processor_digest(SimpleNamespace(resample=2), base) != processor_digest(SimpleNamespace(resample=3), base)
    assert processor_digest(None) == ""
