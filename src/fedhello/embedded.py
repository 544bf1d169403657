"""Models and data sets that Python packages carry, so that a first run needs no model hub and no network."""

import importlib.util
from pathlib import Path

from fedhello.errors import MissingExtraError

PREFIX = "embedded:"


def package_folder(package: str, extra: str, purpose: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Args:
        package: The importable name.
        extra: The extra of fedhello that installs it.
        purpose: What needs it, for the message.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(f"{purpose} is not installed; run: pip install 'fedhello[{extra}]'")
    return Path(next(iter(spec.submodule_search_locations)))
