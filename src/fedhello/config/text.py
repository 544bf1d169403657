"""Read and write YAML: every configuration that fedhello reads comes through ``read_yaml``."""

import json
import math
import re
import stat
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fedhello.errors import ConfigError

MOST_BYTES, MOST_LEVELS, MOST_VALUES = 2**20, 50, 20_000
"""The largest file, the deepest nesting and the most values of a configuration, each far beyond a sensible one."""


class YamlDumper(yaml.SafeDumper):
    """A YAML dumper that quotes strings which ``read_yaml``, or another YAML reader, would read as numbers."""


EXPONENT = re.compile(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
"""Floating-point numbers, including forms that PyYAML's own loaders read as text."""

YamlDumper.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


class Plain(str):
    """A value or a key without quotes, to be read by its key's type.

    Attributes:
        line: The line that it is in, from 1.
        written: A value with what YAML would take for a comment, an anchor or a tag.
    """

    line: int = 0
    written: str | None = None


class PlainMapping(dict[str, Any]):
    """A mapping with the text that it was read from, None if that is of several lines."""

    written: str | None = None


class PlainList(list[Any]):
    """A list with the text that an override gives it as."""

    written: str | None = None


class Unread(NamedTuple):
    """The value of an override that is not YAML: right for a key of texts only.

    Attributes:
        text: The value as written.
        error: Why it is not YAML.
    """

    text: str
    error: ConfigError

    def read(self, text: bool) -> str:
        """Return the value of a key.

        Args:
            text: Whether the key's values are texts.

        Raises:
            ConfigError: If they are not, or it starts with a quote, so that quotes may be missing.
        """
        if not text:
            raise self.error
        if self.text[0] in "'\"":
            raise ConfigError(
                f"expected a text in quotes, or without any; found {self.text}, which only starts with one. If the "
                f"quote belongs to it, write {json.dumps(self.text, ensure_ascii=False)}"
            ) from self.error
        return self.text


def yaml_line(value: object) -> str:
    """Return a value as one line of YAML; reading it gives the same value."""
    if isinstance(value, str) and re.search(r"[\n\r\x85\u2028\u2029]", value):
        return json.dumps(value)  # YAML's own writer would break the line
    dumped = yaml.dump(
        value, Dumper=YamlDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return dumped.removesuffix("...\n").strip()


def read_yaml(text: str, where: str, lines: bool = False) -> Any:
    """Return the value of YAML text: mappings with texts as keys, lists, quoted texts, and unquoted ones as ``Plain``.

    An alias gives a copy, so that a change of one place leaves the other as it is. What is empty is None.

    Args:
        text: The text.
        where: What to call it in the error.
        lines: Whether to keep the lines of unquoted values and keys, for later errors.

    Raises:
        ConfigError: If it is not YAML, a key stands twice in a mapping, or it is nested too deep or too large.
    """
    try:
        return _Composer(text, where, lines).document()
    except yaml.reader.ReaderError as error:
        line = _line_of(text, error.position)
        raise ConfigError(
            f"expected valid YAML in {where}; line {line} holds U+{error.character:04X}, which is no character of "
            "a text. Remove it, or save the file as UTF-8."
        ) from error
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"expected valid YAML in {where}; {_explained(error, text)}") from error


def read_file(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file; empty for an empty file.

    Raises:
        ConfigError: If it cannot be read, or does not hold sections.
    """
    raw = read_yaml(_text_of(path), str(path), lines=True)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        kind = "list" if isinstance(raw, list) else "text"
        raise ConfigError(
            f"expected {path} to hold sections such as model: and data:; found a {kind}. See fedhello init for one."
        )
    return raw


def read_value(text: str, where: str) -> Any:
    """Return the value of an override; unlike in a file, all of it is the value if the key is one of texts.

    Args:
        text: The value.
        where: What to call it in the error.
    """
    text = text.strip()
    try:
        found = read_yaml(text, where)
    except ConfigError as error:
        return Unread(text, error)
    if found is None or (type(found) is str and text[0] not in "'\""):
        found = Plain(found or "")
    if isinstance(found, (Plain, PlainMapping, PlainList)):
        found.written = text
    return found


def _text_of(path: Path) -> str:
    """Return the text of a file."""
    expected = f"expected a configuration file at {path}; it cannot be read"
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):  # a pipe would wait for its writer for ever, and a device never ends
            what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
            raise ConfigError(f"{expected}, since it is {what}. Give the name of a file.")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{expected}, since there is no such file. Check the path, or write one: fedhello init DATA."
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{expected}: {getattr(error, 'strerror', None) or error}.") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(
            f"{expected}, since it has more than {MOST_BYTES:,} bytes, and no configuration needs as many."
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{expected}, since it is UTF-16. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{expected}, since line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8. Save it "
            "as UTF-8."
        ) from error


class _Anchored(NamedTuple):
    """What an anchor names, its number of values, and its levels."""

    value: Any
    size: int
    levels: int


class _Composer:
    """Build the value of YAML text from its events, so that nothing recurses deeper than ``MOST_LEVELS``."""

    def __init__(self, text: str, where: str, lines: bool) -> None:
        self.text, self.where, self.lines = text, where, lines
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self.anchors: dict[str, _Anchored | None] = {}  # None while it is open
        self.size = 0
        self.deepest = 0

    def document(self) -> Any:
        """Return the value of the only document."""
        found = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.size:
                    raise self.refused(event, "a second document starts. Leave one")
                found = self.value(next(self.events), 0)
        return found

    def refused(self, event: Any, found: str) -> ConfigError:
        """Return an error with the line of an event."""
        return ConfigError(f"expected valid YAML in {self.where}; in line {event.start_mark.line + 1} {found}.")

    def value(self, event: Any, level: int) -> Any:
        """Return the value that starts with an event."""
        self.deepest = max(self.deepest, level)
        self._count(event, 1, level)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, level)
        before, outer, self.deepest = self.size, self.deepest, level
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise self.refused(event, f"the anchor &{event.anchor} is given twice. Rename one")
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            found = self._scalar(event)
        else:
            self._check_tag(event, "map" if isinstance(event, yaml.MappingStartEvent) else "seq")
            found = self._mapping(event, level) if isinstance(event, yaml.MappingStartEvent) else self._list(level)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchored(found, self.size - before + 1, self.deepest - level)
        self.deepest = max(outer, self.deepest)
        return found

    def _count(self, event: Any, values: int, level: int) -> None:
        self.size += values
        if level > MOST_LEVELS:
            raise self.refused(event, f"values are nested deeper than {MOST_LEVELS} levels. No key needs as many")
        if self.size > MOST_VALUES:
            raise self.refused(
                event, f"there are more than {MOST_VALUES:,} values, with those of aliases. Leave some out"
            )

    def _alias(self, event: Any, level: int) -> Any:
        if event.anchor not in self.anchors:
            raise self.refused(event, f"the alias *{event.anchor} has no anchor &{event.anchor} before it. Add it")
        found = self.anchors[event.anchor]
        if found is None:
            raise self.refused(event, f"the alias *{event.anchor} is inside its own anchor. Leave it out")
        self._count(event, found.size, level + found.levels)
        self.deepest = max(self.deepest, level + found.levels)
        return deepcopy(found.value)

    def _check_tag(self, event: Any, kind: str) -> None:
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{kind}"):
            raise self.refused(
                event, f"the tag {event.tag!r} is given. Leave it out: values are read by their key's type"
            )

    def _scalar(self, event: Any) -> Any:
        if event.tag == "tag:yaml.org,2002:str":
            return event.value
        typed = event.tag in [f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null")]
        if not typed:
            self._check_tag(event, "str")
        if event.style is not None and not typed:
            return event.value
        return self._plain(event) if event.value else None

    def _plain(self, event: Any) -> Plain:
        found = Plain(event.value)
        found.line = event.start_mark.line + 1 if self.lines else 0
        return found

    def _list(self, level: int) -> PlainList:
        found = PlainList()
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            found.append(self.value(event, level + 1))
        return found

    def _mapping(self, start: Any, level: int) -> PlainMapping:
        found, merged, lines = PlainMapping(), list[Any](), dict[str, int]()
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.refused(event, "a key is no text. Write keys such as rounds: 5")
            key, line = self._plain(event), _line(event)
            if not key:
                raise self.refused(event, "a colon has no key before it. Write keys such as rounds: 5")
            if key in lines:
                raise self._twice(key, lines[key], line)
            lines[key] = line
            if event.anchor is not None:
                self.anchors[event.anchor] = _Anchored(key, 1, 0)
            inner = self.value(next(self.events), level + 1)
            if key == "<<" and event.style is None:
                merged = inner if isinstance(inner, list) else [inner]
                if not all(isinstance(part, dict) for part in merged):
                    raise self.refused(event, "<< has no mapping. Write <<: *anchor")
            else:
                found[key] = inner
        self._merge(found, merged)
        found.written = None if merged else self._written(start, event)
        return found

    def _merge(self, found: PlainMapping, merged: list[PlainMapping]) -> None:
        """Add the keys of merged mappings that a mapping does not have itself."""
        own = set(found)
        for part in merged:
            for key, inner in part.items():
                if key not in own and key in found and found[key] != inner:
                    raise self._twice(
                        key, *(next(getattr(one, "line", 0) for one in other if one == key) for other in (found, part))
                    )
                found.setdefault(key, inner)

    def _twice(self, key: str, first: int, second: int) -> ConfigError:
        both = f"line {first} twice" if first == second else f"lines {first} and {second}"
        return ConfigError(
            f"expected each key once in a section of {self.where}; found {str(key)!r} in {both}. Leave one of them "
            "out, or put what is below both under one."
        )

    def _written(self, start: Any, end: Any) -> str | None:
        """Return the text of a mapping in braces, None if it is of several lines."""
        if not start.flow_style or start.start_mark.line != end.end_mark.line:
            return None
        return self.text[start.start_mark.index : end.end_mark.index]


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _explained(error: yaml.MarkedYAMLError, text: str) -> str:
    """Return where and why text is not YAML, and what to do about it."""
    mark = error.problem_mark or error.context_mark
    line = 0 if mark is None else mark.line
    problem = " ".join(str(error.problem or error.context).split())
    lines = text.splitlines() or [""]
    shown = lines[min(line, len(lines) - 1)].strip()
    if "\\t" in problem:
        advice = "Indent with spaces, not with tabs."
    elif "mapping values are not allowed" in problem and ": " in shown:
        key, _, value = shown.partition(": ")
        advice = f"Put a text with a colon in quotes: {key}: {json.dumps(value, ensure_ascii=False)}"
    elif "scanning a quoted scalar" in str(error.context) and error.context_mark is not None:
        opened = error.context_mark.line + 1
        return f"a quote that opens in line {opened} is not closed. Close it."
    else:
        advice = "Correct this line, or put a text with special characters in quotes."
    return f"in line {line + 1} {problem}. {advice}"
