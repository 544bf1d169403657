"""Write a first configuration for a data set: columns, split and partition are chosen from its content."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedhello.config.schema import DataConfig, ModelConfig
from fedhello.config.section import ConfigMapping
from fedhello.config.settings import data_settings
from fedhello.config.text import yaml_line
from fedhello.config.units import check_encoding
from fedhello.data.dataset import UNNAMED, Columns, DataSet, HeldOut, Kind
from fedhello.data.inspect import Asked, guess
from fedhello.data.samples import HELD_OUT
from fedhello.data.settings import DataSettings
from fedhello.data.sources import open_source
from fedhello.data.split import Split
from fedhello.data.tables import Source, Table
from fedhello.errors import ConfigError, DataError
from fedhello.model.sources import resolve
from fedhello.setup.data import load_data, partition_data, split_data
from fedhello.setup.tiers import StarterTiers, starter_tiers

SPLITS: dict[HeldOut, tuple[str, ...]] = {"validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""Usual names of splits that are held out."""

TASKS: dict[Kind, str] = {
    "texts": "classify texts",
    "pairs": "classify pairs of texts",
    "images": "classify images",
    "tensors": "classify tensors",
    "instructions": "answer prompts",
}

MODELS: dict[Kind, str] = {
    "images": "facebook/deit-tiny-patch16-224",
    "instructions": "embedded:smollm2",
}
"""Small models for data that the default model does not support."""

COMMENTS = {
    "validation": "a share that the server keeps for choosing; or a file, or a split of the data set",
    "test": "a share that the server keeps for reporting; or a file, or a split of the data set",
    "proxy": "samples that the server keeps for Fisher scores",
    "max_length": "tokens, about what 99 % of the samples need; longer ones are cut",
    "partition": "who holds what; see the kinds in docs/reference/configuration.md",
}

LARGEST_LENGTH = 512
"""Tokens that most text encoders accept."""

FEW = 30
"""Mean number of training samples that a client should have."""


@dataclass(frozen=True)
class Starter:
    """A first configuration.

    Attributes:
        text: YAML with comments.
        findings: Lines on the data and on the chosen settings.

    Example:
        >>> "text" in fh.init("texts.csv").text, len(fh.init("texts.csv").findings)
        (True, 5)
    """

    text: str
    findings: tuple[str, ...]


def init(
    data: str | Path,
    out: str | Path | None = None,
    *,
    text: str | Sequence[str] = (),
    label: str | None = None,
    image: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    encoding: str | None = None,
    clients: int | None = None,
    memory: str | Sequence[str] | None = None,
    model: str | None = None,
    force: bool = False,
) -> Starter:
    """Inspect a data set and write a first configuration that runs on it.

    Args:
        data: A file, a folder, an embedded data set or a hub id.
        out: A new file for the configuration; None does not write a file.
        text: The column of texts, two for pairs; columns that are not named are guessed.
        label: The column of classes.
        image: The column of images.
        prompt: The column of prompts, or a template.
        response: The column of responses, or a template.
        encoding: Of tables that have no byte order mark and are not UTF-8, such as ``cp1252``.
        clients: The number of clients; None takes as many as the data are enough for, up to 20.
        memory: The memory of each tier of clients, such as ``1GB,4GB`` for equal shares or ``3/4:1GB,1/4:4GB``; None
            guesses blocks.
        model: An embedded model, the folder of a model, or a hub id; None takes a small one for the data.
        force: Whether to overwrite an existing file.

    Returns:
        The configuration as YAML in ``text``, and lines on the data and the chosen settings in ``findings``.

    Raises:
        ConfigError: If the columns cannot be guessed, the encoding is not known, clients or memory are not possible, or
            the file exists or cannot be written.
        DataError: If the data set cannot be read, or is too small for any federation.
        ModelError: If there is no such model.

    Example:
        >>> fh.init("texts.csv", "fedhello.yaml").findings[1]
        "task: classify texts, texts 'text', labels 'label'; 2 classes: fruit, metal"
    """
    if out is not None and Path(out).exists() and not force:
        raise ConfigError(f"expected a new file for the configuration; {out} exists. Give another out, or set force.")
    texts = (text,) if isinstance(text, str) else tuple(text)
    if len(texts) > 2:
        raise ConfigError(f"expected one column of texts, or two for pairs of texts; found {len(texts)}")
    found = starter(str(data), Asked(texts, label, image, prompt, response), encoding, Wished(clients, memory, model))
    if out is not None:
        try:
            Path(out).write_text(found.text, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"expected to write {out}; {error.strerror or error}. Choose another file.") from error
    return found


@dataclass(frozen=True)
class Wished:
    """What the user wishes of a first configuration; None leaves the choice."""

    clients: int | None = None
    memory: str | Sequence[str] | None = None
    model: str | None = None


def starter(name: str, asked: Asked, encoding: str | None = None, wished: Wished | None = None) -> Starter:
    """Inspect a data set and return a configuration that runs on it.

    Args:
        name: A value of ``data.name``.
        asked: The columns that the user names.
        encoding: A value of ``data.encoding``.
        wished: Clients, tiers and model, as far as they are named.

    Raises:
        ConfigError: If the columns cannot be guessed; the message asks for them. Or if a wish is not possible.
        DataError: If the data set cannot be read, or is too small for any federation.
    """
    check_encoding(encoding)
    wished = wished or Wished()
    if wished.model is not None:
        resolve(wished.model)  # an error of a name that is none
    source = open_source(name, encoding=encoding)
    held_out = {part: split for part in HELD_OUT if (split := _held_out_split(source, part)) is not None}
    table = _training_table(source, held_out)
    known = source.columns if asked == Asked() else None
    columns = guess(table, asked) if known is None else known
    section: ConfigMapping = {"name": name} | ({} if columns == known else _column_keys(columns))
    section |= {} if encoding is None else {"encoding": encoding}
    if source.files and len(source.splits) > 1 and "train" not in source.splits:
        section["partition"] = {"kind": "files"}
    data, section, notes = _read(section, held_out)
    section, train = _fitted(data, section, wished.clients)
    tiers = starter_tiers(wished.memory, section["clients"])
    model = wished.model or MODELS.get(data.kind, ModelConfig().name)
    task = f"task: {TASKS[data.kind]}, {_columns_in_words(columns)}"
    text = "\n".join([f"# {name}: {TASKS[data.kind]}", *_lines(section, train, tiers, model)]) + "\n"
    return Starter(
        text,
        (
            f"{name}: {len(data)} samples; columns {', '.join(table.columns)}",
            task + _classes_in_words(data),
            *(f"note: {note}" for note in (*notes, *data.notes)),
            f"clients: {section['clients']}, who hold what the partition {section['partition']['kind']} gives them",
            tiers.said,
            f"model: {model}, {'as asked' if wished.model else 'a small one; choose another with --model'}",
        ),
    )


def _held_out_split(source: Source, part: HeldOut) -> str | None:
    return next((split for split in source.splits if split.lower() in SPLITS[part]), None)


def _training_table(source: Source, held_out: Mapping[HeldOut, str]) -> Table:
    """Return the table whose columns are inspected: the split train, or the first that is not held out."""
    free = [split for split in source.splits if split not in held_out.values()] or list(source.splits)
    return source.splits["train" if "train" in free else free[0]]()


def _column_keys(columns: Columns) -> ConfigMapping:
    """Return the keys of ``data`` that name columns, without those that have their defaults."""
    text = list(columns.text) if isinstance(columns.text, tuple) else columns.text
    keys = {"image": columns.image, "prompt": columns.prompt, "response": columns.response}
    given: ConfigMapping = {key: value for key, value in keys.items() if value is not None}
    if not given:
        given["text"] = text
    return given if columns.prompt and columns.label == UNNAMED.label else given | {"label": columns.label}


def _read(section: ConfigMapping, held_out: dict[HeldOut, str]) -> tuple[DataSet, ConfigMapping, list[str]]:
    """Read the data set; without its test split if that cannot be used, for example because it has no labels."""
    try:
        return load_data(_settings(section | held_out)), section | held_out, []
    except DataError as error:
        if "test" not in held_out:
            raise
        rest = {part: split for part, split in held_out.items() if part != "test"}
        note = f"the split {held_out['test']} is not held out: {error}"
        return load_data(_settings(section | rest)), section | rest, [note]


def _settings(section: ConfigMapping) -> DataSettings:
    """Return the settings of a section ``data``."""
    return data_settings(DataConfig.model_validate(section))


def _fitted(data: DataSet, section: ConfigMapping, asked: int | None) -> tuple[ConfigMapping, ConfigMapping]:
    """Return the sections ``data`` and ``train`` with the clients asked for, else up to 20, as the data allow.

    Raises:
        ConfigError: If the files of the data set say how many clients there are.
        DataError: If the data set is not enough to split.
    """
    if asked is not None and (asked < 1 or "partition" in section):
        why = "each file is one client's" if "partition" in section else f"found {asked}"
        raise ConfigError(f"expected a number of clients above 0 that the data set leaves open; {why}. Leave it out.")
    pool, classes = len(data.pool), len(np.unique(data.labels))
    section = section | {"validation": 0.1, "test": 0.2} | section
    section["proxy"] = max(classes, min(100, pool // 20))
    if data.kind != "images":
        section["max_length"] = _length(data)
    split = split_data(_settings(section), data)
    refused = DataError(f"expected enough samples for three clients; {len(split.train)} can be trained on")
    for keys in _partitions(data, split, section, asked):
        try:
            parts = partition_data(_settings(section | keys), data, split, seed=0)
        except DataError as error:
            refused = error
            continue
        mixed = sum(len(np.unique(data.labels[part])) > 1 for part in parts)
        train = {"rounds": 20, "clients_per_round": min(5, len(parts))}
        if data.kind == "instructions" or mixed >= train["clients_per_round"]:
            return section | keys, train
        if keys["partition"]["kind"] == "files":  # the clients are given, and several classes are needed
            return section | keys, train | {"loss": "cross_entropy"}
    raise refused


def _partitions(data: DataSet, split: Split, section: ConfigMapping, asked: int | None) -> Iterator[ConfigMapping]:
    """Yield numbers of clients and partitions, the best first."""
    if "partition" in section:
        yield {"clients": len({data.groups[i] for i in split.train}), "partition": section["partition"]}
        return
    samples, classes = len(split.train), len(np.unique(data.labels[split.train]))
    sizes = [size for size in (20, 15, 10, 8, 6, 5, 4, 3) if size == 3 or samples >= FEW * size]
    for clients in sizes if asked is None else [asked]:
        minimum = min(10, max(1, samples // (2 * clients)))
        if data.kind != "instructions":
            k = max(2, math.ceil(classes / clients))
            yield {
                "clients": clients,
                "partition": {"kind": "pathological", "classes_per_client": k, "minimum": minimum},
            }
        if classes > 1:
            yield {"clients": clients, "partition": {"kind": "dirichlet", "alpha": 0.5, "minimum": minimum}}
        yield {"clients": clients, "partition": {"kind": "iid"}}


def _length(data: DataSet) -> int:
    """Estimate the tokens that 99 % of the samples need: three bytes of UTF-8 make one or more."""
    texts = ("".join(sample) if isinstance(sample, tuple) else str(sample) for sample in data.inputs)
    tokens = float(np.quantile([len(text.encode()) / 3 for text in texts], 0.99))
    return min(LARGEST_LENGTH, max(32, 16 * math.ceil(tokens / 16)))


def _columns_in_words(columns: Columns) -> str:
    if columns.prompt is not None:
        return f"prompt {columns.prompt!r}, response {columns.response!r}"
    if columns.image is not None:
        return f"images {columns.image!r}, labels {columns.label!r}"
    return f"texts {columns.text!r}, labels {columns.label!r}"


def _classes_in_words(data: DataSet) -> str:
    names = data.label_names
    if len(names) < 2:
        return ""
    shown = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return f"; {len(names)} {'categories' if data.kind == 'instructions' else 'classes'}: {shown}"


def _lines(section: ConfigMapping, train: ConfigMapping, tiers: StarterTiers, model: str) -> Iterator[str]:
    """Yield the configuration line by line."""
    yield f"model: {yaml_line({'name': model})}  # an embedded model, the folder of a model, or a hub id"
    yield "data:"
    for key, value in section.items():
        yield f"  {key}: {yaml_line(value)}" + (f"  # {COMMENTS[key]}" if key in COMMENTS else "")
    yield from tiers.lines()
    yield f"train: {yaml_line(train)}"
