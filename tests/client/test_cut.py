import torch
from transformers import T5Config, T5ForSequenceClassification

from fedhello.client.cut import Cut, form_of
from fedhello.client.mode import set_training
from fedhello.model.injection import attach_lora
from fedhello.model.loading import FoundationModel
from fedhello.model.sources import ModelSource


def refusal(model, data, lowest):
    set_training(model, lowest)
    return form_of(model, data, Cut(lowest, (), 4, False))


def test_a_model_that_hands_on_more_than_one_input_is_refused(tiny_model, random_examples):
    model, data = tiny_model(), random_examples()
    seen = []
    first, _, last = model.block_modules()
    first.register_forward_hook(lambda _, __, output: seen.append(output))
    last.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 0.1 * seen[-1], *inputs[1:]))
    assert refusal(model, data, 2).startswith("the model hands on more from block to block than hidden states")
    assert not isinstance(refusal(model, data, 1), str)


def test_a_model_that_fails_without_its_blocks_is_refused(tiny_model, random_examples):
    model, data = tiny_model(), random_examples()
    first, _, last = model.block_modules()
    ran = []
    next(first.children()).register_forward_hook(lambda *_: ran.append(1))
    last.register_forward_pre_hook(lambda *_: print(ran.pop()))
    assert refusal(model, data, 2) == "the model cannot go on from them (IndexError: pop from empty list)"


def test_an_encoder_with_a_decoder_is_refused(random_examples):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, num_labels=3, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    base = FoundationModel(T5ForSequenceClassification(config), None, ModelSource("tiny", "tiny"))
    model = attach_lora(base, num_labels=3, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    assert refusal(model, random_examples(), 2).startswith("the model's blocks are in several lists")
