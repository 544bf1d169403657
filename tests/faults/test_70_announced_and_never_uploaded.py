"""Case 70: replies that are announced and never uploaded do not hold up those of others."""

import threading
import time
from types import SimpleNamespace

import pytest

flower = pytest.importorskip("fedhello.network.flower", reason="needs the extra flower")

from flwr.app import ConfigRecord, RecordDict  # noqa: E402
from flwr.app.message import make_message  # noqa: E402
from flwr.app.metadata import Metadata  # noqa: E402
from flwr.common.serde import message_to_proto  # noqa: E402
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse  # noqa: E402
from flwr.proto.runtime_pb2 import PullAppMessagesResponse  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree  # noqa: E402
from flwr.superlink.grid import HttpGrid  # noqa: E402

from fedhello.network.flower_pulls import MOST_OBJECTS  # noqa: E402
from fedhello.network.messages import Failure  # noqa: E402

LIARS = flower.ARRIVING + 1


class SuperLink:
    """What a grid asks of the SuperLink, with replies of which some are announced and not there."""

    def __init__(self):
        self.replies, self.objects, self.uploaded = {}, {}, set()
        self.confirmed, self.trees = [], {}

    def announce(self, message_id, update, upload=True):
        metadata = Metadata(
            run_id=1, message_id="", src_node_id=7, dst_node_id=1, reply_to_message_id=message_id, group_id="",
            created_at=1.8e9, ttl=10.0, message_type="train",
        )  # fmt: skip
        message = make_message(metadata=metadata, content=RecordDict({"fedhello": ConfigRecord({"update": update})}))
        self.trees[message_id] = get_object_tree(message)
        metadata.__dict__["_message_id"] = self.trees[message_id].object_id
        parts = {part: found.deflate() for part, found in get_all_nested_objects(message).items()}
        self.objects |= parts
        self.uploaded |= parts.keys() if upload else set()
        self.replies[message_id] = message_to_proto(message)
        return parts

    def PullMessages(self, request):
        """Each reply is announced once."""
        found = [(self.replies.pop(m), self.trees[m]) for m in request.message_ids if m in self.replies]
        return PullAppMessagesResponse(messages_list=[m for m, _ in found], message_object_trees=[t for _, t in found])

    def PullObject(self, request):
        there = request.object_id in self.uploaded
        content = self.objects[request.object_id] if there else b""
        return PullObjectResponse(
            object_found=request.object_id in self.objects, object_available=there, object_content=content
        )

    def ConfirmMessageReceived(self, request):
        self.confirmed.append(request.message_object_id)


@pytest.fixture
def superlink(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(flower.TaskIdentity, name, 1)
    return SuperLink()


def grid_of(superlink):
    grid = HttpGrid(token="t")
    grid._client = superlink
    grid._run = SimpleNamespace(run_id=1)
    return grid


@pytest.fixture
def link(superlink, monkeypatch):
    monkeypatch.setattr(HttpGrid, "run", property(lambda grid: grid._run))
    link = flower.GridLink(grid_of(superlink))
    yield link
    link.close()


def heard(link, messages, seconds=2.0):
    """Ask for replies, one after the other and again and again, as the engine does."""
    found, end = {}, time.monotonic() + seconds
    while len(found) < len(messages) and time.monotonic() < end:
        for message in messages:
            reply = None if message in found else link.reply(message)
            if reply is not None:
                found[message] = reply
        time.sleep(0.001)
    return found


def test_before_one_such_reply_held_a_thread(superlink, link):
    """Flower's own way: it waits for two hours at most."""
    superlink.announce("liar", b"x", upload=False)
    thread = threading.Thread(target=lambda: list(grid_of(superlink).pull_messages(["liar"])), daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    superlink.uploaded |= superlink.objects.keys()  # let it end
    thread.join(5)
    assert not thread.is_alive()


def test_honest_replies_come_through_at_once(superlink, link):
    messages = [f"liar-{k}" for k in range(LIARS)]
    for message in messages:
        superlink.announce(message, message.encode(), upload=False)
    superlink.announce("honest", b"values")
    begin = time.monotonic()
    assert heard(link, [*messages, "honest"], 0.5)["honest"] == {"update": b"values"}
    assert heard(link, messages, 0.1) == {}
    assert time.monotonic() - begin < 2
    assert superlink.confirmed == [superlink.trees["honest"].object_id]


def test_a_reply_that_arrives_in_parts_comes_whole(superlink, link):
    parts = superlink.announce("slow", b"values", upload=False)
    for part in parts:
        assert heard(link, ["slow"], 0.05) == {}
        superlink.uploaded.add(part)
    assert heard(link, ["slow"])["slow"] == {"update": b"values"}


def test_a_reply_can_be_given_up(superlink, link):
    superlink.announce("liar", b"x", upload=False)
    assert heard(link, ["liar"], 0.05) == {}
    link.forget("liar")
    begin = time.monotonic()
    link._drop()
    while link._dropping is not None and not link._dropping.done():
        time.sleep(0.001)
    assert time.monotonic() - begin < 1


def test_an_upload_that_has_broken_off_is_lost_and_one_of_too_many_parts_is_not_fetched(superlink, link):
    parts = superlink.announce("gone", b"x")
    for part in parts:
        superlink.objects.pop(part)
        superlink.uploaded.discard(part)
    found = heard(link, ["gone"])["gone"]
    assert isinstance(found, Failure)
    assert found.reason == "lost"
    superlink.announce("many", b"x")
    superlink.trees["many"].children.extend(ObjectTree(object_id=f"{k}") for k in range(MOST_OBJECTS))
    assert heard(link, ["many"])["many"].reason == "malformed"
