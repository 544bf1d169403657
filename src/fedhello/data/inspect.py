"""Guess the roles of a table's columns from their names and values; raise an error if several fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from fedhello.data.dataset import UNNAMED, Columns, Picture
from fedhello.data.folders import IMAGES
from fedhello.data.tables import Table
from fedhello.errors import ConfigError

LOOKED_AT = 20_000
"""Number of inspected rows."""

TEXTS = ("text", "sentence", "content", "body", "review", "comment", "message", "tweet", "document", "headline")
LABELS = ("label", "labels", "class", "category", "topic", "sentiment", "intent", "target")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence"),
         ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"))  # fmt: skip
PROMPTS = ("instruction", "prompt", "question")
CONTEXTS = ("context", "input")
RESPONSES = ("response", "output", "completion", "answer")


@dataclass(frozen=True)
class Asked:
    """The columns that the user names; the others are guessed.

    Attributes:
        text: None, one or two columns of texts.
        label: Of classes.
        image: Of images.
        prompt: A column or a template.
        response: Likewise.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    image: str | None = None
    prompt: str | None = None
    response: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What the values of a column can be.

    Attributes:
        name: Of the column.
        image: Whether its values are images, or paths of images.
        label: Whether they could be classes.
        text: Whether they could be texts.
    """

    name: str
    image: bool
    label: bool
    text: bool


def facts(table: Table, column: str) -> Inspection:
    """Return what the values of a column can be."""
    values = table.values(column)[:LOOKED_AT]
    found = [value for value in values if value is not None and value != ""]
    strings = [value for value in found if isinstance(value, str)]
    if found and all(map(_is_image, found)):
        return Inspection(column, image=True, label=False, text=False)
    whole = len(found) == len(values) > 0
    if not strings or len(strings) < len(found):
        numbers = whole and all(isinstance(value, int) for value in found)
        return Inspection(
            column, image=False, label=numbers and _few(len(set(map(str, found))), len(found)), text=False
        )
    label = whole and _few(len(set(strings)), len(strings)) and max(map(len, strings)) <= 60
    label = label and not all(map(_is_fraction, strings))
    words = sum(len(value.split()) for value in strings) / len(strings)
    return Inspection(column, image=False, label=label, text=not label and words >= 2)


def guess(table: Table, asked: Asked) -> Columns:
    """Return the columns of inputs and labels.

    Raises:
        ConfigError: If several columns fit a role, or none; the message asks for the argument that decides.
    """
    found = [facts(table, column) for column in table.columns]
    if asked.prompt or asked.response:
        return _instructions(found, asked)
    if asked.text:
        return _classified(found, asked, asked.text[0] if len(asked.text) == 1 else (asked.text[0], asked.text[1]))
    images = [fact.name for fact in found if fact.image]
    if asked.image or images:
        image = asked.image or _one(images, ("image",), "images", "image")
        return Columns(label=_label(found, asked), image=image)
    names = {fact.name.lower() for fact in found}
    if asked.label is None and "label" not in names and names & {*PROMPTS} and names & {*RESPONSES}:
        return _instructions(found, asked)
    return _classified(found, asked, None)


def _instructions(found: Sequence[Inspection], asked: Asked) -> Columns:
    names = [fact.name for fact in found]
    prompt = asked.prompt
    if prompt is None:
        prompt = _one(_known(names, PROMPTS), PROMPTS[:1], "prompts", "prompt")
        contexts = _known(names, CONTEXTS)
        if len(contexts) == 1:
            prompt = f"{{{prompt}}}\n\n{{{contexts[0]}}}"
    response = asked.response or _one(_known(names, RESPONSES), RESPONSES[:1], "responses", "response")
    categories = _known([fact.name for fact in found if fact.label], LABELS)
    label = asked.label or (categories[0] if len(categories) == 1 else UNNAMED.label)
    return Columns(prompt=prompt, response=response, label=label)


def _classified(found: Sequence[Inspection], asked: Asked, text: str | tuple[str, str] | None) -> Columns:
    label = _label(found, asked)
    if text is None:
        texts = [fact.name for fact in found if fact.text and fact.name != label]
        text = next((pair for pair in PAIRS if {*pair} <= {*texts}), None)
        text = text or _one(texts, TEXTS, "texts", "text", _pair_hint)
    return Columns(text=text, label=label)


def _label(found: Sequence[Inspection], asked: Asked) -> str:
    inputs = (*asked.text, asked.image)
    return asked.label or _one([f.name for f in found if f.label and f.name not in inputs], LABELS, "labels", "label")


def _pair_hint(names: Sequence[str]) -> str:
    return f", or text twice, {names[0]} and {names[1]}, for pairs of texts"


def _one(
    names: Sequence[str],
    known: Sequence[str],
    what: str,
    option: str,
    hint: Callable[[Sequence[str]], str] | None = None,
) -> str:
    """Return the only name; or the one with the usual name; or the only one with a known name."""
    matching = _known(names, known)
    best = [name for name in matching if name.lower() == known[0]]
    for choice in (names, best, matching):
        if len(choice) == 1:
            return choice[0]
    if not names:
        raise ConfigError(f"expected a column of {what}; found none that fits. Name it as {option}.")
    more = hint(names) if hint else ""
    raise ConfigError(
        f"expected one column of {what}; found several that fit: {', '.join(names)}. Name one as {option}{more}."
    )


def _known(names: Sequence[str], known: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower() in known]


def _few(distinct: int, rows: int) -> bool:
    """Whether few enough values are different for them to be classes."""
    return 2 <= distinct <= max(2, min(200, rows // 4))


def _is_image(value: object) -> bool:
    if isinstance(value, dict):
        return "bytes" in value and "path" in value
    is_path = isinstance(value, str) and PurePath(value).suffix.lower() in IMAGES
    return is_path or isinstance(value, (bytes, Picture))


def _is_fraction(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "." in value
