"""The clients' public keys in the server's folder, and who may connect by them while the server runs.

A file ``NAME.pub`` that is put into the folder, taken away or replaced takes effect within seconds, without a restart:
Flower is told to register the new node or to forget the old one, and what the old one sends does not count any more.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedhello.errors import EngineError
from fedhello.notes import Line


@dataclass(frozen=True)
class _Key:
    """A key as a file holds it.

    Attributes:
        stamp: Inode, time of change and size; where they are as before, the file need not be read again.
        content: What is in the file. It alone says which key this is: a file that is only copied or touched holds the
            same one, and Flower never takes a key for a second time.
    """

    stamp: tuple[int, int, int]
    content: bytes


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
        self._known: dict[Path, _Key] = {}
        self._lost = False

    def register_all(self) -> None:
        """Register every key with a SuperLink that has just started.

        Raises:
            EngineError: If Flower refuses one.
        """
        self._known = self._look()
        self.owners.clear()
        self.owners |= {self._nodes.register(file): file.stem for file in self._known}

    def refresh(self) -> None:
        """Take in what has changed in the folder since the last time.

        A folder without any key is one that is not there for now, such as a disk that is not mounted: to take it for
        the removal of all keys would shut every client out for good.
        """
        found = self._look()
        lost = bool(self._known) and not found
        if lost and not self._lost:
            self._note(
                Line(
                    f"expected public keys in {self._folder}; found none. Those known stay valid until the folder has "
                    "keys again; stop the server to shut all clients out.",
                    event="keys not found",
                )
            )
        self._lost = lost
        if not lost:
            self._take_in(found)

    def _take_in(self, found: dict[Path, _Key]) -> None:
        before, self._known = self._known, found
        for file in sorted(before.keys() | found.keys()):
            old, new = before.get(file), found.get(file)
            if old is not None and new is not None and old.content == new.content:
                continue
            if old is not None:
                self._forget(file.stem)
            if new is not None:
                self._add(file)

    def _look(self) -> dict[Path, _Key]:
        found = {}
        for file in sorted(self._folder.glob("*.pub")):
            with suppress(FileNotFoundError):  # gone since
                found[file] = self._read(file)
        return found

    def _read(self, file: Path) -> _Key:
        """Return the key in a file: the known one if the file is as it was, not to be read, or just being written."""
        known = self._known.get(file)
        try:
            stat = file.stat()
            stamp = stat.st_ino, stat.st_mtime_ns, stat.st_size
            if known is not None and known.stamp == stamp:
                return known
            content = file.read_bytes()
        except FileNotFoundError:
            raise
        except OSError:
            return known or _Key((0, 0, 0), b"")
        return known if known is not None and not content else _Key(stamp, content)

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
