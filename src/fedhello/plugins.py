"""Methods from outside the package: entered by a call, by the name of a module, or as an entry point."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from fedhello.aggregation.layerwise import average_layerwise
from fedhello.errors import ConfigError
from fedhello.methods import METHODS, Method
from fedhello.strategy import AllocationContext, options_of
from fedhello.types import Allocation

BUILT_IN = frozenset(METHODS)
"""Names that nothing from outside may take."""


def register_method(method: Method) -> Method:
    """Enter a method into the table, so that configurations and comparisons know its name.

    Args:
        method: With a name that none of fedhello's own has; another of one's own is replaced.

    Returns:
        The same.

    Raises:
        ConfigError: If one of fedhello's own methods has its name.

    Example:
        >>> def topmost(context: fh.AllocationContext) -> fh.Allocation:
        ...     return fh.Allocation((context.federation.blocks - 1,))
        >>> _ = fh.register_method(fh.Method("topmost", "the last block", "this page", allocate=topmost))
        >>> fh.load_config(None, {"method.name": "topmost"}).method.name
        'topmost'
    """
    if method.name in BUILT_IN and METHODS.get(method.name) is not method:
        raise ConfigError(f"expected a new name for a method; fedhello has a method {method.name} already")
    METHODS[method.name] = method
    return method


@dataclass(frozen=True)
class _NotImported(Method):
    """Stands for a method whose code nobody asked to be run, while a run's folder is read."""


def find_method(name: str) -> None:
    """Enter the method that a name stands for: of a module, as ``package.module:attribute``, or of an entry point.

    The module is imported from the working directory or an installed package; entry points are those of the group
    ``fedhello.methods``. Names that are known stay as they are. Whoever names a module runs its code: names that come
    over a network, or with somebody's folder, must not end here.

    Args:
        name: As ``method.name`` has it.

    Raises:
        ConfigError: If the module cannot be imported, or has no such method.
    """
    if name in METHODS and not isinstance(METHODS[name], _NotImported):
        return
    module, colon, attribute = name.partition(":")
    if colon:
        METHODS[name] = replace(_imported(name, module, attribute), name=name)
        return
    for entry in entry_points(group="fedhello.methods", name=name):
        METHODS[name] = replace(_as_method(name, _tried(name, entry.load)), name=name)


def stand_in(name: str, options: Mapping[str, Any]) -> None:
    """Enter something for a method of a module, so that a run's folder can be read without running its code.

    Args:
        name: As ``method.name`` has it; names that are known, and those without a module, stay as they are.
        options: Those that the folder's configuration gives it.
    """
    if name in METHODS or ":" not in name:
        return

    def everything(context: AllocationContext, **_: Any) -> Allocation:
        return Allocation(tuple(range(context.federation.blocks)))

    keyword, first = Parameter.KEYWORD_ONLY, Parameter("context", Parameter.POSITIONAL_OR_KEYWORD)
    known = {p.name for p in options_of(average_layerwise)}
    own = {key: value for key, value in options.items() if key not in known}
    parameters = [Parameter(key, keyword, default=value, annotation=Any) for key, value in own.items()]
    everything.__signature__ = Signature([first, *parameters])  # type: ignore[attr-defined]
    METHODS[name] = _NotImported(name, "code that was not run", "-", allocate=everything)


def _imported(name: str, module: str, attribute: str) -> Method:
    parts = module.split(".")
    if not all(part.isidentifier() for part in (*parts, attribute)):
        raise ConfigError(f"expected a method of a module as package.module:attribute; found {name!r}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return _as_method(name, _tried(name, lambda: getattr(import_module(module), attribute)))
    finally:
        sys.path.remove(here)


def _tried(name: str, load: Callable[[], object]) -> object:
    """Import something; whatever its code raises becomes one sentence."""
    try:
        return load()
    except Exception as error:  # it is somebody else's code
        raise ConfigError(
            f"expected {name} to name a method as package.module:attribute, to import from {Path.cwd()} or installed; "
            f"{type(error).__name__}: {error}"
        ) from error


def _as_method(name: str, found: object) -> Method:
    if not isinstance(found, Method):
        raise ConfigError(f"expected a fedhello.Method at {name}; found a {type(found).__name__}")
    return found
