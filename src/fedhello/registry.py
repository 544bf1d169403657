"""Registries of user-defined objects: registered by a call, imported from a module, or found as an entry point."""

import sys
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedhello.errors import ConfigError, FedhelloError
from fedhello.formatting import nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """The named objects of one kind, such as losses or partitions.

    A name is built in, registered by a program, ``package.module:attribute``, or that of an entry point. Looking up a
    module imports it and so runs its code. Names received over a network or read from another person's folder must
    therefore be looked up with ``[]``, never with ``find`` or ``require``.

    Attributes:
        what: The word for one object in messages.
        key: The configuration key that names one.
        group: The group of the entry points.
        own: Built-in names, which cannot be registered.
        table: Name → object.
    """

    def __init__(
        self,
        what: str,
        key: str,
        group: str,
        accept: Callable[[str, object], T],
        own: Collection[str] = (),
        table: dict[str, T] | None = None,
    ) -> None:
        self.what, self.key, self.group, self.own = what, key, group, frozenset(own)
        self.table: dict[str, T] = {} if table is None else table
        self._accept = accept

    def __contains__(self, name: str) -> bool:
        """Whether a name is registered; nothing is imported."""
        return name in self.own or name in self.table

    def __getitem__(self, name: str) -> T:
        """Return the registered object of a name; nothing is imported.

        Raises:
            ConfigError: If the name is not registered.
        """
        if name not in self.table:
            raise ConfigError(
                f"expected the user-defined {self.what} {name} of {self.key} to be registered; found no such "
                f"{self.what}. Register it first: fedhello.register_{self.what}({name!r}, …)."
            )
        return self.table[name]

    def register(self, name: str, value: object) -> T:
        """Register an object under a name; a registered object of the same name is replaced.

        Raises:
            ConfigError: If the name is built in, or the object is not of this kind.
        """
        if name in self.own and self.table.get(name) is not value:
            raise ConfigError(
                f"expected a new name for the {self.what}; {name} is a built-in {self.what}. Choose another name."
            )
        self.table[name] = self._accept(name, value)
        return self.table[name]

    def find(self, name: str) -> bool:
        """Import and register the object of a name that is ``module:attribute`` or an entry point, unless it is known.

        The module is imported from the working directory or an installed package.

        Returns:
            Whether the name is registered now.

        Raises:
            ConfigError: If a module cannot be imported, or has no such object.
        """
        if name in self:
            return True
        module, colon, attribute = name.partition(":")
        if colon:
            self.table[name] = self._accept(name, self._imported(name, module, attribute))
            return True
        for entry in entry_points(group=self.group, name=name):
            self.table[name] = self._accept(name, self._tried(name, entry.load))
        return name in self

    def require(self, name: str) -> None:
        """Do as ``find``, and raise an error if the name is unknown.

        Raises:
            ConfigError: If the name is unknown, the module cannot be imported, or has no such object.
        """
        if not self.find(name):
            known = [*sorted(self.own), *self.table]
            choice = f"one of {', '.join(known)}, or " if known else ""
            raise ConfigError(
                f"expected {self.key} to be {choice}package.module:attribute; found {name!r}"
                f"{nearest(name, known)} A registration holds for one process only; to repeat it: "
                f"fedhello.register_{self.what}({name!r}, …)."
            )

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        """Call the user-defined function of a name.

        Raises:
            ConfigError: If the name is not registered, or the function raises anything.
        """
        function: Any = self[name]
        try:
            return function(*values, **options)
        except FedhelloError:
            raise
        except Exception as error:  # it is somebody else's code
            raise ConfigError(
                f"expected the {self.what} {name} to run without an error; it raised {type(error).__name__}: {error}. "
                f"Correct it, or leave {self.key} out."
            ) from error

    def _imported(self, name: str, module: str, attribute: str) -> object:
        parts = module.split(".")
        if not all(part.isidentifier() for part in (*parts, attribute)):
            raise ConfigError(f"expected the {self.what} as package.module:attribute; found {name!r}")
        here = str(Path.cwd())
        sys.path.insert(0, here)
        try:
            return self._tried(name, lambda: getattr(import_module(module), attribute))
        finally:
            sys.path.remove(here)

    def _tried(self, name: str, load: Callable[[], object]) -> object:
        """Import an object; whatever its code raises becomes a ``ConfigError``."""
        try:
            return load()
        except Exception as error:  # it is somebody else's code
            raise ConfigError(
                f"expected {name} to name a {self.what} as package.module:attribute, importable from {Path.cwd()} or "
                f"an installed package; found {type(error).__name__}: {error}"
            ) from error


def a_function(name: str, found: object) -> Callable[..., Any]:
    """Return an object if it can be called.

    Raises:
        ConfigError: If it cannot.
    """
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"expected a function at {name}; found a {type(found).__name__}")
    return found
