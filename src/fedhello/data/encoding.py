"""Tokenise texts, pairs of texts, and prompts with their responses."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from fedhello.data import cache
from fedhello.data.batches import Examples
from fedhello.data.ragged import Gathered
from fedhello.data.tables import first_line
from fedhello.errors import DataError

T = TypeVar("T")

Place = Callable[[int], str]
"""Returns what messages call a sample."""

CHUNK = 4096
"""Samples that are tokenised at once: a tokenizer returns many times what is kept of each."""

LEAST_PROMPT = 4
"""Least number of tokens of a prompt that remain before a long response."""


def _numbered(i: int) -> str:
    return f"text {i + 1}"


def tokenise(
    texts: Sequence[str],
    labels: np.ndarray,
    tokenizer: Any,
    max_length: int,
    seconds: Sequence[str] | None = None,
    place: Place = _numbered,
) -> tuple[Examples, int]:
    """Tokenise texts, or pairs of texts, once.

    Args:
        texts: n texts.
        labels: Shape (n,).
        tokenizer: The foundation model's tokenizer, with a padding token.
        max_length: The most tokens of a sample; longer ones are cut at the end, pairs at the end of the longer text.
        seconds: The second texts of pairs.
        place: Returns what messages call a sample.

    Returns:
        The samples, and how many of them were cut.

    Raises:
        DataError: If the tokenizer refuses a text, or makes no token of it.
    """

    def encode(chosen: Sequence[int], **how: Any) -> Any:
        pair = () if seconds is None else ([seconds[i] for i in chosen],)
        chosen_texts = [texts[i] for i in chosen]
        return tokenizer(chosen_texts, *pair, add_special_tokens=True, return_attention_mask=False, **how)

    tokens, segments = Gathered(cache.spill), Gathered(cache.spill)
    whole, are_told = [], False
    for everyone in _chunks(len(texts)):
        encoded = _taken(lambda chosen: encode(chosen, truncation=False, padding=False, verbose=False), everyone, place)
        sizes = np.array([len(ids) for ids in encoded["input_ids"]], dtype=int)
        if (sizes > max_length).any():
            encoded = _taken(lambda chosen: encode(chosen, truncation=True, max_length=max_length), everyone, place)
        tokens.add(encoded["input_ids"])
        if are_told := seconds is not None and encoded.get("token_type_ids") is not None:
            segments.add(encoded["token_type_ids"])
        whole.append(sizes)
    lengths = np.concatenate(whole)
    _check_tokens(lengths, place)
    examples = Examples(
        tokens.rows(),
        np.asarray(labels),
        int(tokenizer.pad_token_id),
        segments.rows() if are_told else None,
    )
    return examples, int((lengths > max_length).sum())


def _chunks(count: int) -> Iterator[range]:
    """Yield the positions of samples, so many at a time that what the tokenizer says of them takes little memory."""
    return (range(first, min(first + CHUNK, count)) for first in range(0, max(count, 1), CHUNK))


def _taken(call: Callable[[Sequence[int]], T], samples: Sequence[int], place: Place) -> T:
    """Return what the tokenizer makes of samples; an error names the first that it refuses.

    Args:
        call: Has the tokenizer take the samples at some positions.
        samples: The positions.
        place: Returns what messages call a sample.
    """
    try:
        return call(samples)
    except MemoryError:
        raise
    except Exception as error:  # tokenizers and their templates raise errors of any kind
        for i in samples if len(samples) > 1 else ():
            _taken(call, [i], place)
        where = place(samples[0]) if len(samples) == 1 else "all of them together"
        raise DataError(
            f"expected texts that the model's tokenizer accepts; on {where} it raises {type(error).__name__}: "
            f"{first_line(error)[:200]}"
        ) from error


def _check_tokens(counts: np.ndarray, place: Place, first: int = 0) -> None:
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise DataError(
            "expected texts of which the model's tokenizer makes tokens; it makes none of "
            + place(first + int(empty[0]))
            + (f" ({len(empty)} such texts)" if len(empty) > 1 else "")
            + ". Leave them out."
        )


def tokenise_instructions(
    pairs: Sequence[tuple[str, str]], labels: np.ndarray, tokenizer: Any, max_length: int, place: Place = _numbered
) -> tuple[Examples, int]:
    """Tokenise prompts with their responses once; only the response, with its end token, is predicted.

    Where the tokenizer has a chat template, a prompt is the user's turn in it and a response the assistant's. Elsewhere
    a response follows its prompt and a line break. Where a response begins is found by tokenising the prompt alone.

    Args:
        pairs: n prompts and responses.
        labels: Shape (n,).
        tokenizer: The foundation model's tokenizer, with a padding token and an end-of-text token.
        max_length: The most tokens of a sample. In longer ones the prompt is cut at its end, and a response that is
            too long by itself is also cut at its end.
        place: Returns what messages call a sample.

    Returns:
        The samples, and how many of them were cut.

    Raises:
        DataError: If a response is empty, or the tokenizer refuses a text or makes no token of it.
    """
    empty = [i for i, (_, response) in enumerate(pairs) if not response.strip()]
    if empty:
        raise DataError(
            f"expected every prompt to have a response; {len(empty)} of {len(pairs)} have none, the first is "
            f"{place(empty[0])}. Leave them out."
        )

    def encode(chosen: Sequence[int]) -> list[tuple[list[int], list[int]]]:
        texts = [rendered(*pairs[i], tokenizer) for i in chosen]
        before = _prompt_ids([opened for opened, _ in texts], tokenizer)
        return list(zip(before, _ids([answer for _, answer in texts], tokenizer), strict=True))

    tokens, answers, cut = Gathered(cache.spill), np.zeros(len(pairs), dtype=int), 0
    for everyone in _chunks(len(pairs)):
        found = _taken(encode, everyone, place)
        for part in zip(*found, strict=True):
            _check_tokens(np.array([len(ids) for ids in part]), place, everyone[0])
        for j, (before, after) in enumerate(found):
            if len(before) + len(after) > max_length:
                found[j] = _shortened(pairs[everyone[j]][0], after, tokenizer, max_length)
                cut += 1
        tokens.add([*before, *after] for before, after in found)
        answers[everyone] = [len(before) for before, _ in found]
    return Examples(tokens.rows(), np.asarray(labels), int(tokenizer.pad_token_id), answers=answers), cut


def tokenise_prompts(prompts: Sequence[str], tokenizer: Any, max_length: int | None = None) -> list[list[int]]:
    """Tokenise prompts as they precede responses; texts that are too long are cut at the end.

    Raises:
        DataError: If the tokenizer refuses a prompt.
    """

    def encode(chosen: Sequence[int]) -> list[list[int]]:
        return _prompt_ids([_opened(prompts[i], tokenizer) for i in chosen], tokenizer)

    ids = _taken(encode, range(len(prompts)), lambda i: f"prompt {i + 1}")
    for i, row in enumerate(ids):
        if max_length is not None and len(row) > max_length:
            ids[i], _ = _shortened(prompts[i], [tokenizer.eos_token_id], tokenizer, max_length + 1)
    return ids


def taught_end(tokenizer: Any) -> int | None:
    """Return the special token at the end of training responses, which may differ from the end-of-text token."""
    said = "response"
    _, answer = rendered("prompt", said, tokenizer)
    (behind,) = _ids([answer.partition(said)[2]], tokenizer)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return next((i for i in behind if i in special), None)


def rendered(prompt: str, response: str, tokenizer: Any) -> tuple[str, str]:
    """Return the text of a prompt, and that of its response with the end token.

    Raises:
        DataError: If the chat template changes the text before a response.
    """
    opened = _opened(prompt, tokenizer)
    if tokenizer.chat_template is None:
        return opened, response + (tokenizer.eos_token or "")
    turns = [_said("user", prompt), _said("assistant", response)]
    whole = _templated(turns, tokenizer, add_generation_prompt=False)
    if not whole.startswith(opened):
        raise DataError(
            "expected the tokenizer's chat template to append the assistant's turn to the user's; it changes the text "
            "before it, so the response cannot be separated from the prompt"
        )
    return opened, whole.removeprefix(opened)


def _opened(prompt: str, tokenizer: Any) -> str:
    if tokenizer.chat_template is None:
        return prompt.rstrip() + "\n"
    return _templated([_said("user", prompt)], tokenizer, add_generation_prompt=True)


def _templated(turns: Sequence[dict[str, str]], tokenizer: Any, add_generation_prompt: bool) -> str:
    """Apply the chat template to turns.

    Templates of reasoning models put an empty thought before a response; with ``enable_thinking=False`` it is part of
    the prompt, so that it is not learnt. Other templates ignore the argument.
    """
    return str(
        tokenizer.apply_chat_template(
            turns, add_generation_prompt=add_generation_prompt, tokenize=False, enable_thinking=False
        )
    )


def _prompt_ids(opened: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """Tokenise rendered prompts; a template contains its own special tokens, and a prompt gets no end token."""
    ids = _ids(opened, tokenizer, special=tokenizer.chat_template is None)
    end = tokenizer.eos_token_id
    return [row[:-1] if len(row) > 1 and row[-1] == end else row for row in ids]


def _ids(texts: Sequence[str], tokenizer: Any, special: bool = False) -> list[list[int]]:
    found = tokenizer(list(texts), add_special_tokens=special, truncation=False, padding=False, verbose=False)
    return [list(row) for row in found["input_ids"]]


def _shortened(prompt: str, after: list[int], tokenizer: Any, max_length: int) -> tuple[list[int], list[int]]:
    """Cut the end of the prompt's text, inside the template, and then the end of the response."""
    (around,) = tokenise_prompts([""], tokenizer)
    (content,) = _ids([prompt], tokenizer)
    room = max(LEAST_PROMPT, max_length - len(around) - len(after))
    (before,) = tokenise_prompts([tokenizer.decode(content[:room])], tokenizer)
    while len(before) + len(after) > max_length and room > LEAST_PROMPT:  # a cut text may take one more token
        room -= 1
        (before,) = tokenise_prompts([tokenizer.decode(content[:room])], tokenizer)
    if len(before) >= max_length:
        raise DataError(
            f"expected data.max_length to leave room for a response; the prompt takes {len(before)} of {max_length} "
            "tokens. Raise it."
        )
    return before, after[: max_length - len(before)]


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}
