"""Methods from outside the package: entered by a call, by the name of a module, or as an entry point."""

import sys
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

from fedhello.errors import ConfigError
from fedhello.methods import METHODS, Method


def register_method(method: Method) -> Method:
    """Enter a method into the table, so that configurations and comparisons know its name.

    Args:
        method: With a name that no other method has.

    Returns:
        The same.

    Raises:
        ConfigError: If another method has its name.
    """
    if METHODS.get(method.name, method) is not method:
        raise ConfigError(f"expected a new name for a method; there is a method {method.name} already")
    METHODS[method.name] = method
    return method


def find_method(name: str) -> None:
    """Enter the method that a name stands for: of a module, as ``package.module:attribute``, or of an entry point.

    The module is imported from the working directory or an installed package; entry points are those of the group
    ``fedhello.methods``. Names that are known stay as they are. Whoever names a module runs its code: names that come
    over a network must not end here.

    Args:
        name: As ``method.name`` has it.

    Raises:
        ConfigError: If the module cannot be imported, or has no such method.
    """
    if name in METHODS:
        return
    module, colon, attribute = name.partition(":")
    if colon:
        METHODS[name] = replace(_imported(name, module, attribute), name=name)
        return
    for entry in entry_points(group="fedhello.methods", name=name):
        METHODS[name] = replace(_as_method(name, entry.load()), name=name)


def _imported(name: str, module: str, attribute: str) -> Method:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return _as_method(name, getattr(import_module(module), attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"expected {name} to name a method as package.module:attribute, to import from {here} or installed; {error}"
        ) from error
    finally:
        sys.path.remove(here)


def _as_method(name: str, found: object) -> Method:
    if not isinstance(found, Method):
        raise ConfigError(f"expected a fedhello.Method at {name}; found a {type(found).__name__}")
    return found
