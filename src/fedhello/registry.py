"""What people bring from outside the package, by name: entered by a call, found in a module, or as an entry point."""

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
    """Everything of one kind that has a name.

    A name is one of fedhello's own, one that a program has registered, ``package.module:attribute``, or that of an
    entry point. Whoever names a module runs its code: names that come over a network, or with somebody's folder, are
    looked up with ``[]`` and must not end in ``find`` or
    ``require``.

    Attributes:
        what: What messages call one of them.
        key: The key of a configuration that names one.
        group: Of the entry points.
        own: Names that nothing from outside may take.
        table: Name → what it stands for.
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
        """Whether a name stands for something, without looking for it."""
        return name in self.own or name in self.table

    def __getitem__(self, name: str) -> T:
        """Return what a name from outside stands for, without importing anything.

        Raises:
            ConfigError: If it stands for nothing yet.
        """
        if name not in self.table:
            raise ConfigError(
                f"expected the {self.what} {name} of {self.key}, which is code from outside fedhello that nobody has "
                f"imported here; found nothing. Register it first: fedhello.register_{self.what}({name!r}, …)."
            )
        return self.table[name]

    def register(self, name: str, value: object) -> T:
        """Enter something under a name; another of one's own is replaced.

        Raises:
            ConfigError: If one of fedhello's own has the name, or it is nothing of this kind.
        """
        if name in self.own and self.table.get(name) is not value:
            raise ConfigError(
                f"expected a new name for a {self.what}; fedhello has a {self.what} {name} already. Give it another."
            )
        self.table[name] = self._accept(name, value)
        return self.table[name]

    def find(self, name: str) -> bool:
        """Enter what a name stands for, if it is of a module or an entry point; known names stay as they are.

        The module is imported from the working directory or an installed package.

        Returns:
            Whether the name stands for something now.

        Raises:
            ConfigError: If a module cannot be imported, or has nothing of this kind.
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
        """Do what ``find`` does for a name that has to stand for something.

        Raises:
            ConfigError: If it stands for nothing, the module cannot be imported, or has nothing of this kind.
        """
        if not self.find(name):
            known = [*sorted(self.own), *self.table]
            raise ConfigError(
                f"expected {self.key} to be one of {', '.join(known)}, or package.module:attribute; found {name!r}"
                f"{nearest(name, known)} What a program registered, it has to register again in each process: "
                f"fedhello.register_{self.what}({name!r}, …)."
            )

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        """Call the function of a name from outside; whatever it raises becomes one sentence.

        Raises:
            ConfigError: If it stands for nothing, or raises.
        """
        function: Any = self[name]
        try:
            return function(*values, **options)
        except FedhelloError:
            raise
        except Exception as error:  # it is somebody else's code
            raise ConfigError(
                f"expected the {self.what} {name} to return; it raised {type(error).__name__}: {error}. Correct it, or "
                f"leave {self.key} out."
            ) from error

    def _imported(self, name: str, module: str, attribute: str) -> object:
        parts = module.split(".")
        if not all(part.isidentifier() for part in (*parts, attribute)):
            raise ConfigError(f"expected a {self.what} of a module as package.module:attribute; found {name!r}")
        here = str(Path.cwd())
        sys.path.insert(0, here)
        try:
            return self._tried(name, lambda: getattr(import_module(module), attribute))
        finally:
            sys.path.remove(here)

    def _tried(self, name: str, load: Callable[[], object]) -> object:
        """Import something; whatever its code raises becomes one sentence."""
        try:
            return load()
        except Exception as error:  # it is somebody else's code
            raise ConfigError(
                f"expected {name} to name a {self.what} as package.module:attribute, to import from {Path.cwd()} or "
                f"installed; {type(error).__name__}: {error}"
            ) from error


def a_function(name: str, found: object) -> Callable[..., Any]:
    """Return what a name stands for, if it can be called.

    Raises:
        ConfigError: If not.
    """
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"expected a function at {name}; found a {type(found).__name__}")
    return found
