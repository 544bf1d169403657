"""Read the configuration in a run's folder, and override it to resume the run."""

from collections.abc import Sequence
from pathlib import Path

from fedhello.config.diff import differing, irrelevant
from fedhello.config.load import import_named, load_run_config
from fedhello.config.schema import Config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.methods import METHODS

FILE = "config.yaml"


def stored_config(folder: Path) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigError: If it cannot be read.
        RunFolderError: If this is not the folder of a run.
    """
    if not (folder / FILE).is_file():
        raise RunFolderError(f"expected the folder of a run; {folder} has no {FILE}. Check the path.")
    return load_run_config(folder / FILE)


def resumed_config(folder: Path, overrides: Sequence[str]) -> Config:
    """Return a run's configuration with overrides, none of which may affect its rounds.

    Raises:
        ConfigError: If an override would change a result, or the run's method is an object that is not registered.
        RunFolderError: If this is not the folder of a run.
    """
    before = stored_config(folder)
    import_named(before.model_dump())
    if before.method.name not in METHODS:
        raise ConfigError(
            f"expected the method {before.method.name}, which was passed as an object, to be registered; found no such "
            "method. Register it before resuming: fedhello.register_method(method)."
        )
    config = load_run_config(folder / FILE, overrides)
    changed = differing([before, config], irrelevant(before))
    if changed:
        said = "; ".join(f"{key} is {there!r} there and {here!r} here" for key, (there, here) in changed.items())
        raise ConfigError(
            f"expected overrides that do not affect the rounds of {folder}, such as run.keep; {said}. "
            "Start another run for that."
        )
    return config
