import itertools
import os

import pytest

from fedhello.errors import EngineError
from fedhello.network.keyring import Keyring
from fedhello.notes import fields_of


class Nodes:
    """Flower, as it treats keys: one that was registered before is refused."""

    def __init__(self):
        self.registered, self.gone, self._numbers, self._seen = {}, [], itertools.count(1), set()

    def register(self, file):
        key = file.read_text()
        if not key or key in self._seen:
            raise EngineError(f"expected a public key in {file}")
        self._seen.add(key)
        node = next(self._numbers)
        self.registered[node] = key
        return node

    def unregister(self, node):
        self.gone.append(node)


@pytest.fixture
def ring(tmp_path):
    for name in ("berlin", "madrid"):
        (tmp_path / f"{name}.pub").write_text(name)
    (tmp_path / "berlin").write_text("its private key")
    notes = []
    made = Keyring(tmp_path, Nodes(), notes.append)
    made.notes, made.nodes = notes, made._nodes
    made.register_all()
    assert made.owners == {1: "berlin", 2: "madrid"} and notes == []
    return made


def events(ring):
    found = [(fields_of(line)["event"], fields_of(line)["name"]) for line in ring.notes]
    ring.notes.clear()
    return found


def test_keys_come_go_and_are_replaced_without_a_restart(ring, tmp_path):
    owners = ring.owners
    ring.refresh()
    assert events(ring) == []
    (tmp_path / "paris.pub").write_text("paris")
    (tmp_path / "berlin.pub").unlink()
    ring.refresh()
    assert owners == {2: "madrid", 3: "paris"} and ring.nodes.gone == [1]
    assert events(ring) == [("key removed", "berlin"), ("key added", "paris")]
    (tmp_path / "madrid.pub").write_text("madrid's new key")
    ring.refresh()
    assert owners == {3: "paris", 4: "madrid"} and ring.nodes.gone == [1, 2]
    assert events(ring) == [("key removed", "madrid"), ("key added", "madrid")]


def test_a_bad_key_lets_nobody_in_and_ends_no_run(ring, tmp_path):
    (tmp_path / "rome.pub").write_text("")
    ring.refresh()
    ring.refresh()
    assert events(ring) == [("key refused", "rome")]
    assert sorted(ring.owners.values()) == ["berlin", "madrid"]
    with pytest.raises(EngineError):
        Keyring(tmp_path, Nodes(), ring.notes.append).register_all()  # at the start it is an error


def test_a_superlink_that_starts_again_gets_all_keys_again(ring, tmp_path):
    ring._nodes = Nodes()
    (tmp_path / "paris.pub").write_text("paris")
    ring.register_all()
    assert ring.owners == {1: "berlin", 2: "madrid", 3: "paris"}
    ring.refresh()
    assert events(ring) == []


def test_a_key_that_is_only_touched_or_copied_anew_is_the_same_key(ring, tmp_path):
    os.utime(tmp_path / "berlin.pub", (1, 1))
    (tmp_path / "new").write_text("madrid")
    (tmp_path / "new").replace(tmp_path / "madrid.pub")  # as rsync does
    ring.refresh()
    (tmp_path / "berlin.pub").write_text("")  # as cp does, for a moment
    ring.refresh()
    (tmp_path / "berlin.pub").write_text("berlin")
    ring.refresh()
    assert ring.owners == {1: "berlin", 2: "madrid"} and ring.nodes.gone == [] and ring.notes == []


@pytest.mark.parametrize("away", ["the folder", "its keys"])
def test_a_folder_that_is_away_for_a_while_shuts_nobody_out(ring, tmp_path, away):
    moves = (
        [(tmp_path, tmp_path.with_name("elsewhere"))]
        if away == "the folder"
        else [(file, file.with_suffix(".kept")) for file in tmp_path.glob("*.pub")]
    )
    for there, elsewhere in moves:
        there.rename(elsewhere)
    ring.refresh()
    ring.refresh()
    (note,) = ring.notes  # said once
    assert fields_of(note)["event"] == "keys not found" and f"expected public keys in {tmp_path}; found none" in note
    for there, elsewhere in moves:
        elsewhere.rename(there)
    ring.refresh()
    assert ring.owners == {1: "berlin", 2: "madrid"} and ring.nodes.gone == [] and len(ring.notes) == 1
    (tmp_path / "berlin.pub").unlink()
    ring.refresh()
    assert ring.owners == {2: "madrid"}  # one of several is taken away
