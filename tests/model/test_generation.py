import sys

import pytest
import torch

from fedhello.errors import MissingExtraError
from fedhello.model import generation
from fedhello.model.generation import generate, rouge_l, stops
from fedhello.model.injection import attach_lora
from fedhello.model.loading import load_foundation
from fedhello.model.sources import resolve


@pytest.fixture
def speaker(make_speaker, tmp_path):
    make_speaker(tmp_path, ["one", "two", "three", "four"], blocks=2)
    base = load_foundation(resolve(str(tmp_path)), "causal-lm", (), seed=0)
    model = attach_lora(base, num_labels=None, rank=2, alpha=2, dropout=0.0, targets="attention-qv", seed=0)
    generator = torch.Generator().manual_seed(1)
    model.write({name: torch.randn(v.shape, generator=generator) for name, v in model.read(model.block_of).items()})
    words = torch.arange(4) + len(model.tokenizer) - 4
    unsaid = torch.full((len(model.tokenizer),), -1e9).index_fill(0, words, 0.0)  # ends and the like
    model.base.lm_head.register_forward_hook(lambda _, __, z: z + unsaid)
    return model


def test_each_prompt_gets_the_answer_that_it_gets_alone(speaker, monkeypatch):
    prompts = ["one", "two three four one two", "three four", "four", "one two three"]
    alone = [generate(speaker, [prompt], 4, 24)[0] for prompt in prompts]
    assert len(set(alone)) > 1
    monkeypatch.setattr(generation, "BATCH_SIZE", 2)
    assert generate(speaker, prompts, 4, 24) == alone


def test_answers_repeat_change_no_value_and_are_as_long_as_asked(speaker):
    before = speaker.read(speaker.block_of)
    found = generate(speaker, ["one two"], 3, 24)
    assert generate(speaker, ["one two"], 3, 24) == found
    assert len(found[0].split()) <= 3
    assert all(torch.equal(value, before[name]) for name, value in speaker.read(speaker.block_of).items())


def test_every_end_that_anybody_states_ends_an_answer(speaker):
    end, one = speaker.tokenizer.convert_tokens_to_ids(["<end>", "one"])
    speaker.base.generation_config.eos_token_id = None
    assert stops(speaker) == [end]
    speaker.base.generation_config.eos_token_id = [end, one]
    assert stops(speaker) == sorted([end, one])


def test_rouge_l_by_hand():
    """Of "the cat sat" and "the cat sat down now" three words are common: precision 3/3, recall 3/5, F 6/8."""
    assert rouge_l(["the cat sat", "no"], ["the cat sat down now", "yes"]) == pytest.approx(0.75 / 2)
    assert rouge_l(["the same"], ["the same"]) == 1


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fedhello\[instruction\]', or set data\.answers: 0"):
        rouge_l(["a"], ["a"])
