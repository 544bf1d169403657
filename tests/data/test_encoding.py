import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedhello.data.batches import IGNORED
from fedhello.data.encoding import taught_end, tokenise, tokenise_instructions, tokenise_prompts
from fedhello.errors import DataError

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
THINKING = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n"
    "{% endif %}{{ m['content'] }} <end> {% endfor %}{% if add_generation_prompt %}<assistant> "
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
WORDS = ["[PAD]", "[UNK]", "<bos>", "<end>", "<user>", "<assistant>", *"abcdefgh", "<think>", "</think>"]
ID = {word: i for i, word in enumerate(WORDS)}


def words(template=None, bos=False):
    """A tokenizer whose tokens are the words of a text."""
    plain = Tokenizer(models.WordLevel(ID, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        plain.post_processor = processors.TemplateProcessing(
            single="<bos> $A <end>", pair="<bos> $A <end> $B:1 <end>:1", special_tokens=[("<bos>", 2), ("<end>", 3)]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]", pad_token="[PAD]", eos_token="<end>")
    made.chat_template = template
    made.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return made


def read(ids):
    return " ".join(WORDS[i] for i in ids)


def instructions(pairs, max_length=32, template=CHAT, **kind):
    return tokenise_instructions(pairs, np.zeros(len(pairs), dtype=int), words(template, **kind), max_length)


def test_pairs_keep_their_segments_and_the_longer_one_is_cut():
    examples, cut = tokenise(["a b c d e", "a"], np.array([0, 1]), words(bos=True), 6, seconds=["f g", "h"])
    assert cut == 1
    assert [read(t) for t in examples.tokens] == ["<bos> a b <end> f <end>", "<bos> a <end> h <end>"]
    assert [s.tolist() for s in examples.segments] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    batch = examples.batch(np.array([0, 1]))
    assert batch.inputs["token_type_ids"].shape == batch.inputs["input_ids"].shape == (2, 6)
    assert batch.inputs["token_type_ids"][1].tolist() == [0, 0, 0, 1, 1, 0]


def test_a_response_is_the_assistants_turn_and_only_it_is_predicted():
    examples, cut = instructions([("a b", "c d"), ("e", "f")])
    assert cut == 0
    assert read(examples.tokens[0]) == "<user> a b <end> <assistant> c d <end>"
    assert examples.answers.tolist() == [5, 4]
    batch = examples.batch(np.array([0, 1]))
    assert batch.labels[0].tolist() == [IGNORED] * 5 + [ID["c"], ID["d"], ID["<end>"]]
    assert batch.labels[1].tolist() == [IGNORED] * 4 + [ID["f"], ID["<end>"]] + [IGNORED] * 2


def test_without_a_chat_template_a_response_follows_its_prompt_and_ends():
    examples, _ = instructions([("a b", "c d")], template=None)
    assert read(examples.tokens[0]) == "a b c d <end>"
    assert examples.answers.tolist() == [2]


def test_a_prompt_keeps_the_tokens_that_begin_a_text_but_not_those_that_end_one():
    examples, _ = instructions([("a b", "c d")], template=None, bos=True)
    assert read(examples.tokens[0]) == "<bos> a b c d <end>"
    assert examples.answers.tolist() == [3]


def test_the_prompts_text_is_cut_first_and_never_what_is_around_it():
    examples, cut = instructions([("a b c d e f g h", "a b"), ("a", "b")], max_length=11)
    assert cut == 1
    assert read(examples.tokens[0]) == "<user> a b c d e <end> <assistant> a b <end>"
    assert read(examples.tokens[1]) == "<user> a <end> <assistant> b <end>"


def test_a_response_that_is_too_long_by_itself_loses_its_end():
    examples, cut = instructions([("a b c d e f", "a b c d e f g h")], max_length=12)
    assert cut == 1
    assert read(examples.tokens[0]) == "<user> a b c d <end> <assistant> a b c d e"
    assert len(examples.tokens[0]) == 12
    assert examples.answers.tolist() == [7]


def test_no_room_for_a_response_is_refused():
    with pytest.raises(DataError, match=r"leave room for a response; the prompt takes 7 of 6 tokens"):
        instructions([("a b c d e f", "a b c d")], max_length=6)


def test_an_empty_response_is_refused():
    with pytest.raises(DataError, match="1 of 2 have none, the first is text 2"):
        instructions([("a", "b"), ("a", "  ")])


def test_a_template_that_changes_what_stands_before_the_response_is_refused():
    changing = "{% if add_generation_prompt %}<user> a <assistant> {% else %}<user> b <assistant> c <end>{% endif %}"
    with pytest.raises(DataError, match="chat template"):
        instructions([("a", "c")], template=changing)


def test_prompts_alone_are_tokenised_as_they_stand_before_a_response():
    pairs = [("a b", "c"), ("d", "e f")]
    examples, _ = instructions(pairs)
    alone = tokenise_prompts([prompt for prompt, _ in pairs], words(CHAT))
    whole = [t[:n].tolist() for t, n in zip(examples.tokens, examples.answers, strict=True)]
    assert alone == whole


def test_responses_end_with_a_special_token_of_the_template_or_with_the_end_of_a_text():
    plain, chat, other = words(), words(CHAT), words(CHAT.replace("<end>", "h <turn> <end>"))
    other.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    assert taught_end(plain) == taught_end(chat) == ID["<end>"]
    assert taught_end(other) == other.convert_tokens_to_ids("<turn>") != ID["<end>"]
    assert taught_end(words(CHAT.replace("<end>", ""))) is None


def test_an_empty_thought_belongs_to_the_prompt():
    examples, _ = instructions([("a b", "c d")], template=THINKING)
    assert read(examples.tokens[0]) == "<user> a b <end> <assistant> <think> </think> c d <end>"
    assert read(examples.tokens[0][examples.answers[0] :]) == "c d <end>"
    (alone,) = tokenise_prompts(["a b"], words(THINKING))
    assert alone == examples.tokens[0][: examples.answers[0]].tolist()


def test_subsets_keep_answers():
    examples, _ = instructions([("a b", "c d"), ("e", "f")])
    part = examples.subset(np.array([1]))
    assert part.answers.tolist() == [4]
    assert (part.batch(np.array([0])).labels != IGNORED).sum() == 2


# the tokenizer as a door


@pytest.mark.parametrize("seconds", [None, ["a", "b", "c"]])
def test_a_text_that_the_tokenizer_refuses_is_named_once_by_its_place(seconds):
    texts = ["a", "b", "c\ud83d"]
    with pytest.raises(
        DataError, match=r"that the model's tokenizer accepts; on line 4 of x it raises TypeError: Text"
    ):
        tokenise(texts, np.zeros(3, dtype=int), words(), 8, seconds, place=lambda i: f"line {i + 2} of x")


def test_a_text_without_tokens_is_named_by_its_place():
    with pytest.raises(DataError, match=r"makes none of line 3 of x \(2 such texts\)\. Leave them out\."):
        tokenise(["a", " ", "\t"], np.zeros(3, dtype=int), words(), 8, place=lambda i: f"line {i + 2} of x")
    with pytest.raises(DataError, match=r"makes none of text 1\."):
        tokenise_instructions([(" ", "b")], np.zeros(1, dtype=int), words(), 8)


def test_a_template_that_refuses_a_prompt_names_it():
    picky = "{% if messages[0]['content'] == 'b' %}{{ raise_exception('no b') }}{% endif %}" + CHAT
    with pytest.raises(DataError, match=r"on line 3 of x it raises TemplateError: no b"):
        tokenise_instructions(
            [("a", "c"), ("b", "c")], np.zeros(2, dtype=int), words(picky), 32, lambda i: f"line {i + 2} of x"
        )
    with pytest.raises(DataError, match=r"on prompt 2 it raises TemplateError: no b"):
        tokenise_prompts(["a", "b"], words(picky))


def test_long_texts_and_control_characters_are_cut_and_kept():
    examples, cut = tokenise(["a " * 100_000, "a \0 \x07 b"], np.zeros(2, dtype=int), words(), 8)
    assert (cut, [len(row) for row in examples.tokens]) == (1, [8, 4])
