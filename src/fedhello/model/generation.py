"""Generate a language model's answers to prompts, and compare them with references."""

from collections.abc import Sequence
from typing import Any

import torch

from fedhello.data.encoding import taught_end, tokenise_prompts
from fedhello.errors import MissingExtraError
from fedhello.model.adapter import LoraModel

BATCH_SIZE = 16


def longest_prompt(model: LoraModel, max_length: int, answer_tokens: int) -> int:
    """Return the most tokens of a prompt, at most ``max_length``, so that its answer fits behind it."""
    longest = model.longest_input
    return max_length if longest is None else min(max_length, longest - answer_tokens)


def generate(model: LoraModel, prompts: Sequence[str], max_new_tokens: int, max_length: int) -> list[str]:
    """Return the model's answers to prompts, by greedy decoding.

    Args:
        model: A causal language model; its values do not change.
        prompts: The user's texts; the tokenizer's chat template, if any, is applied to them.
        max_new_tokens: The most tokens of an answer.
        max_length: The most tokens of a prompt; longer prompts are cut at the end.
    """
    ids = tokenise_prompts(prompts, model.tokenizer, max_length)
    # Prompts of similar length together, the longest first, so that a lack of memory shows at once.
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    answers = [""] * len(ids)
    for begin in range(0, len(order), BATCH_SIZE):
        part = order[begin : begin + BATCH_SIZE]
        for i, answer in zip(part, _answers(model, [ids[i] for i in part], max_new_tokens), strict=True):
            answers[i] = answer
    return answers


def _answers(model: LoraModel, rows: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
    """Generate for prompts that are padded on the left, so that all answers start at the same position."""
    tokenizer, longest = model.tokenizer, max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), int(tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for r, row in enumerate(rows):
        ids[r, longest - len(row) :] = torch.tensor(row)
        mask[r, longest - len(row) :] = 1
    model.module.eval()
    with torch.inference_mode():
        generator: Any = model.module
        made = generator.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stops(model),
        )
    return [text.strip() for text in tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)]


def stops(model: LoraModel) -> list[int]:
    """Return the ids of the tokens that end an answer: the model's, the tokenizer's, and that of training responses."""
    base = model.base
    stated = base.generation_config.eos_token_id
    stated = stated if isinstance(stated, list) else [stated]
    found = {*stated, model.tokenizer.eos_token_id, taught_end(model.tokenizer)}
    return sorted(token for token in found if token is not None)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return the mean ROUGE-L of answers, within 0 … 1: the F-measure of the longest common subsequence of words.

    Computed by the package rouge-score, without stemming (Lin 2004, "ROUGE: a package for automatic evaluation of
    summaries").

    Raises:
        MissingExtraError: If the package is not installed.
    """
    scorer = rouge_scorer()(["rougeL"])
    scores = [scorer.score(right, answer)["rougeL"].fmeasure for answer, right in zip(answers, references, strict=True)]
    return float(sum(scores) / len(scores))


def rouge_scorer() -> Any:
    """Return the class of rouge-score's scorer.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError(
            "ROUGE-L needs the package rouge-score; run: pip install 'fedhello[instruction]', or set data.answers: 0"
        ) from error
    return RougeScorer
