"""User-defined methods: registered by a call, named as ``module:attribute``, or found as an entry point."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from inspect import Parameter, Signature
from typing import Any

from fedhello.aggregation.layerwise import add_layerwise, average_layerwise
from fedhello.errors import ConfigError
from fedhello.method import Method
from fedhello.methods import METHODS
from fedhello.registry import Registry
from fedhello.strategy import AggregationContext, AggregationResult, Aggregator, AllocationContext, options_of
from fedhello.types import Allocation, Update


def _as_method(name: str, found: object) -> Method:
    if not isinstance(found, Method):
        raise ConfigError(f"expected a fedhello.Method at {name}; found a {type(found).__name__}")
    return found if found.name == name else replace(found, name=name)


_REGISTRY = Registry("method", "method.name", "fedhello.methods", _as_method, own=METHODS, table=METHODS)


def register_method(method: Method) -> Method:
    """Register a method, so that configurations and comparisons can name it.

    Args:
        method: The method. Its name must differ from those of the built-in methods; a registered method of the same
            name is replaced. To change only the aggregator of a built-in method, use
            ``dataclasses.replace(METHODS["rgd-hla"], name="mine", aggregate=rule)``.

    Returns:
        The method.

    Raises:
        ConfigError: If a built-in method has its name.

    Example:
        >>> def topmost(context: fh.AllocationContext) -> fh.Allocation:
        ...     return fh.Allocation((context.federation.num_blocks - 1,))
        >>> _ = fh.register_method(fh.Method("topmost", "the last block", "this page", allocate=topmost))
        >>> fh.load_config(None, {"method.name": "topmost"}).method.name
        'topmost'
    """
    return _REGISTRY.register(method.name, method)


def find_method(name: str) -> None:
    """Import and register the method of a name; see ``Registry.find``.

    Args:
        name: The value of ``method.name``.

    Raises:
        ConfigError: If the module cannot be imported, or has no such method.
    """
    _REGISTRY.find(name)


def is_own(name: str) -> bool:
    """Whether a name is that of one of fedhello's own methods, whose code is wherever fedhello is."""
    return name in _REGISTRY.own


def method_or_stand_in(name: str, options: Mapping[str, Any]) -> Method:
    """Return a registered method, or a stand-in with which a run's folder can be read without importing its code.

    The stand-in is not registered, so no run can use it.

    Args:
        name: The value of ``method.name``.
        options: Its options in the folder's configuration.
    """
    if name in METHODS:
        return METHODS[name]

    def everything(context: AllocationContext, **_: Any) -> Allocation:
        return Allocation(tuple(range(context.federation.num_blocks)))

    def unknown(context: AggregationContext, updates: Iterable[Update]) -> AggregationResult:
        raise ConfigError(f"expected the aggregator of {name}; its code is not imported. Register the method first.")

    keyword, first = Parameter.KEYWORD_ONLY, Parameter("context", Parameter.POSITIONAL_OR_KEYWORD)
    layerwise = {p.name for p in options_of(add_layerwise)}
    aggregate: Aggregator = average_layerwise if layerwise <= options.keys() else unknown
    own = {key: value for key, value in options.items() if aggregate is unknown or key not in layerwise}
    parameters = [Parameter(key, keyword, default=value, annotation=Any) for key, value in own.items()]
    everything.__signature__ = Signature([first, *parameters])  # type: ignore[attr-defined]
    return Method(name, "its code is not imported", "-", allocate=everything, aggregate=aggregate)
