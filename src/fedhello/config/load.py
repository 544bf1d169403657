"""Read and write a configuration: every key checked, every default filled in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fedhello.client.loss import LOSSES
from fedhello.config.checks import (
    check_budgets,
    check_defence,
    check_dora,
    check_forward,
    check_merging,
    check_metrics,
    check_privacy,
    check_private,
    check_sampling,
    check_tensors,
    check_train,
)
from fedhello.config.choices import BEFORE, INSTRUCTION, with_fixed, with_published_semantics
from fedhello.config.messages import NOT_WRITTEN, Written, sentence
from fedhello.config.overrides import override
from fedhello.config.partitions import OwnPartition
from fedhello.config.schema import Config, DataConfig, MethodConfig
from fedhello.config.section import ConfigMapping
from fedhello.config.text import YamlDumper, read_file
from fedhello.config.typed import by_type, is_nothing, with_paths
from fedhello.data.partition import PARTITIONS
from fedhello.errors import ConfigError
from fedhello.formatting import nearest
from fedhello.method import Method
from fedhello.methods import METHODS
from fedhello.model.evaluation import METRICS
from fedhello.plugins import find_method, method_or_stand_in
from fedhello.strategy import options_model

IRRELEVANT = (
    "run.name", "run.out", "run.track", "run.checkpoint_every", "run.keep", "run.wait", "run.deadline_floor",
    "run.deadline_factor", "run.workers", "run.cache_folder",
)  # fmt: skip
"""Keys that do not affect a result: the run's folder, trackers, checkpoints, waiting times and processes."""


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read, override and check a configuration.

    Args:
        path: A YAML file; None takes the defaults, the embedded demo.
        overrides: ``a.b=c`` with a value in YAML; later ones win.

    Raises:
        ConfigError: If the file cannot be read, or a key, type or value is wrong.
    """
    return resolved({} if path is None else read_file(path), overrides, path)


def resolved(raw: ConfigMapping, overrides: Sequence[str], file: Path | None = None) -> Config:
    """Return the checked configuration of sections and overrides, with the code imported that they name.

    Args:
        raw: Sections with their keys; changed.
        overrides: ``a.b=c``; later ones win.
        file: The file that the sections were read from, for errors.

    Raises:
        ConfigError: If a key, type or value is wrong.
    """
    override(raw, overrides)
    import_named(raw)
    return parse_config(with_paths(by_type(raw)), written=Written(raw, file))


def load_run_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration in a run's folder, possibly written by an earlier version.

    A stored configuration has every key of its version. A missing key is therefore newer than the run, and gets the
    value that reproduces that version. No code that it names is run; to resume a run, call ``import_named`` first.

    Raises:
        ConfigError: As ``load_config``.
    """
    raw = read_file(path)
    for dotted, value in BEFORE.items():
        section, key = dotted.split(".")
        if is_nothing(raw.get(section)):
            raw[section] = {}
        if isinstance(raw[section], dict):  # parse_config refuses anything else
            raw[section].setdefault(key, value)
    override(raw, overrides)
    return parse_config(by_type(raw), reads=True, written=Written(raw, path))


def import_named(raw: Mapping[str, Any]) -> None:
    """Import the methods, partitions, losses and metrics from outside fedhello that a configuration names.

    Args:
        raw: Sections with their keys.

    Raises:
        ConfigError: If something cannot be imported, or a partition, a loss or a metric is unknown.
    """
    method, data, train, run = (_section(raw, key) for key in ("method", "data", "train", "run"))
    if isinstance(method.get("name"), str):
        find_method(method["name"])
    named = [(PARTITIONS, _section(data, "partition").get("kind")), (LOSSES, train.get("loss"))]
    metrics = run.get("metrics")
    named += [(METRICS, metric) for metric in (metrics if isinstance(metrics, list) else [])]
    for registry, name in named:
        if isinstance(name, str):
            registry.require(name)


def _section(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def parse_config(raw: Mapping[str, Any], reads: bool = False, written: Written = NOT_WRITTEN) -> Config:
    """Check a configuration given as nested mappings, and fill in every default.

    Args:
        raw: Sections with their keys.
        reads: Whether the run is only read, so that its method's code need not be imported.
        written: What was read, for the line of a wrong value.

    Raises:
        ConfigError: If a key, type or value is wrong.
    """
    raw = {key: value for key, value in raw.items() if value is not None}  # an empty section counts as left out
    config = _validated(raw, written)
    if config.data.kind == "instructions":
        raw = with_fixed(raw, INSTRUCTION, "for instruction data, which has prompts with responses")
        config = _validated(raw, written)
    elif config.model.task == "instruction" or config.model.head == "none":
        raise ConfigError(
            "expected data.prompt and data.response with model.task: instruction or model.head: none; found neither. "
            "Name the columns of prompts and responses, or leave model.task and model.head out."
        )
    row = _row(config.method, reads)
    if config.parity == "published":
        config = _validated(with_published_semantics(raw, row), written)
    options = _filled(row.options, config.method.options, f"method ({row.name}).", written)
    method = MethodConfig(name=row.name, **options)
    check_budgets(config, row)
    check_merging(config.model, row)
    check_defence(config, row)
    check_privacy(config, row)
    check_private(config, row)
    check_sampling(config, row)
    check_train(config, row)
    check_forward(config, row)
    check_metrics(config)
    check_tensors(config)
    if config.model.lora.dora:
        check_dora(row)
    return config.model_copy(update={"method": method, "data": _with_options(config.data, written)})


def dump_config(config: Config) -> str:
    """Return the fully resolved configuration as YAML; reading it gives an equal configuration."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=YamlDumper, sort_keys=False, allow_unicode=True)


def _validated(raw: Mapping[str, Any], written: Written) -> Config:
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(sentence(error, Config, "", written)) from error


def _row(method: MethodConfig, reads: bool) -> Method:
    """Return a method's row of the table, or a stand-in if the run is only read."""
    if reads:
        return method_or_stand_in(method.name, method.options)
    if method.name not in METHODS:
        raise ConfigError(
            f"expected method.name to be one of {', '.join(METHODS)}; found {method.name!r}"
            + nearest(method.name, METHODS)
        )
    return METHODS[method.name]


def _with_options(data: DataConfig, written: Written) -> DataConfig:
    """Return the section with the options of a user-defined partition checked and filled in, if it is imported."""
    how = data.partition
    if not isinstance(how, OwnPartition) or how.kind not in PARTITIONS:
        return data
    options = options_model(how.kind, [PARTITIONS[how.kind]])
    values = _filled(options, how.options, f"data.partition ({how.kind}).", written)
    return data.model_copy(update={"partition": OwnPartition(kind=how.kind, **values)})


def _filled(options: type[BaseModel], given: Mapping[str, Any], prefix: str, written: Written) -> dict[str, Any]:
    """Return the options, checked and with defaults."""
    try:
        return options.model_validate(given).model_dump()
    except ValidationError as error:
        raise ConfigError(sentence(error, options, prefix, written)) from error
