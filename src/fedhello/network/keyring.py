"""The clients' public keys in the server's folder, and who may connect by them while the server runs.

A file ``NAME.pub`` that is put into the folder, taken away or replaced takes effect within seconds, without a restart:
Flower is told to register the new node or to forget the old one, and what the old one sends does not count any more.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from fedhello.errors import EngineError
from fedhello.notes import Line

Stamp = tuple[int, int, int]
"""By which a file is recognised: inode, time of its change, size."""


class Nodes(Protocol):
    """What Flower does with keys."""

    def register(self, file: Path) -> int:
        """Return the node of a public key.

        Raises:
            EngineError: If Flower refuses the key.
        """
        ...

    def unregister(self, node: int) -> None:
        """Forget a node."""
        ...


class Keyring:
    """The nodes of the clients that may connect.

    Attributes:
        owners: Node → the name of its key, that of the file without ``.pub``; it changes with the folder.

    Args:
        folder: The server's folder of keys.
        nodes: Flower.
        note: Called with a line about each change.
    """

    def __init__(self, folder: Path, nodes: Nodes, note: Callable[[str], None]) -> None:
        self.owners: dict[int, str] = {}
        self._folder, self._nodes, self._note = folder, nodes, note
        self._known: dict[Path, Stamp] = {}

    def register_all(self) -> None:
        """Register every key with a SuperLink that has just started.

        Raises:
            EngineError: If Flower refuses one.
        """
        self._known = self._look()
        self.owners.clear()
        self.owners |= {self._nodes.register(file): file.stem for file in self._known}

    def refresh(self) -> None:
        """Take in what has changed in the folder since the last time."""
        found = self._look()
        if found == self._known:
            return
        before, self._known = self._known, found
        for file in sorted(before.keys() | found.keys()):
            if before.get(file) == found.get(file):
                continue
            if file in before:
                self._forget(file.stem)
            if file in found:
                self._add(file)

    def _look(self) -> dict[Path, Stamp]:
        found = {}
        for file in sorted(self._folder.glob("*.pub")):
            try:
                stat = file.stat()
            except FileNotFoundError:  # gone since
                continue
            found[file] = stat.st_ino, stat.st_mtime_ns, stat.st_size
        return found

    def _forget(self, name: str) -> None:
        for node in [node for node, owner in self.owners.items() if owner == name]:
            del self.owners[node]
            self._nodes.unregister(node)
            self._note(Line(f"the key of {name!r} is gone: it cannot connect any more", event="key removed", name=name))

    def _add(self, file: Path) -> None:
        try:
            self.owners[self._nodes.register(file)] = file.stem
        except EngineError as error:
            self._note(Line(f"{file} lets nobody in: {error}", event="key refused", name=file.stem))
            return
        self._note(Line(f"a new key of {file.stem!r}: it can connect", event="key added", name=file.stem))
