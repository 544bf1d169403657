"""What fedhello makes of Flower's own messages, without a process or a socket."""

import ast
import io
import os
import threading
import time
import zipfile
from pathlib import Path

import pytest

flower = pytest.importorskip("fedhello.network.flower", reason="needs the extra flower")

import httpx
from flwr.app import ConfigRecord, RecordDict
from flwr.app.error import Error
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

import fedhello
from fedhello.errors import EngineError
from fedhello.network import QUIET
from fedhello.network.messages import Failure

SOURCES = Path(fedhello.__file__).parent


class InProcessGrid(Grid):
    """Replies to messages as Flower's grid does: by the id of the message, in any order, some of them twice."""

    def __init__(self):
        self.pushed = []
        self.waiting = []

    def set_run(self, run):
        raise NotImplementedError

    run = property(set_run)
    create_message = send_and_receive = set_run

    def get_node_ids(self):
        return [11, 12]

    def push_messages(self, messages):
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"id-{len(self.pushed)}"
            self.pushed.append(message)
            yield message.metadata.message_id

    def pull_messages(self, message_ids):
        wanted = set(message_ids)
        return [reply for reply in self.waiting if reply.metadata.reply_to_message_id in wanted]


@pytest.fixture
def grid(monkeypatch):
    # Outside a run, Flower does not say which node it is.
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(flower.TaskIdentity, name, 1)
    return InProcessGrid()


def heard(link, message_id, looks=200):
    """Return a reply once it has been fetched, which takes a thread a moment; None if there is none."""
    for _ in range(looks):
        reply = link.reply(message_id)
        if reply is not None:
            return reply
        time.sleep(0.001)
    return None


def reply_to(message_id, content=None, error=None, source=1):
    metadata = Metadata(
        run_id=1, message_id="", src_node_id=source, dst_node_id=1, reply_to_message_id=message_id, group_id="",
        created_at=1.8e9, ttl=10.0, message_type="train",
    )  # fmt: skip
    return make_message(metadata=metadata, error=error) if error else make_message(metadata=metadata, content=content)


def test_messages_carry_bytes_untouched_and_say_what_they_are(grid):
    link = flower.GridLink(grid)
    assert link.nodes() == frozenset({11, 12})
    payload = bytes(range(256)) * 100
    assert link.send(12, "train", {"client": 1, "task": payload, "seconds": 2.5, "run": "r"}, group="7") == "id-0"
    message = grid.pushed[0]
    assert (message.metadata.dst_node_id, message.metadata.message_type) == (12, "train")
    assert message.metadata.group_id == "7"
    assert dict(message.content["fedhello"]) == {
        "kind": "train", "client": 1, "task": payload, "seconds": 2.5, "run": "r",
    }  # fmt: skip
    link.send(11, "join", {})
    assert grid.pushed[1].metadata.message_type == "query"


def test_a_message_stays_valid_whatever_a_client_s_clock_says(grid):
    flower.GridLink(grid).send(11, "train", {})
    assert grid.pushed[0].metadata.ttl > 2 * 24 * 3600


def test_a_reply_belongs_to_the_message_that_it_answers_and_not_to_its_sender(grid):
    link = flower.GridLink(grid)
    first, second = link.send(11, "train", {}), link.send(12, "train", {})
    grid.waiting = [reply_to(second, RecordDict({"fedhello": ConfigRecord({"update": b"2"})}), source=12)]
    assert heard(link, first) is None
    assert heard(link, second) == {"update": b"2"}
    grid.waiting = [reply_to(first, error=Error(ErrorCode.NODE_UNAVAILABLE, "gone"), source=1)]
    assert heard(link, first) == Failure("lost", "Flower's error 5: gone")


def test_of_two_replies_to_one_message_the_first_counts(grid):
    link = flower.GridLink(grid)
    sent = link.send(11, "train", {})
    grid.waiting = [
        reply_to(sent, RecordDict({"fedhello": ConfigRecord({"update": value})}), source=11) for value in (b"1", b"2")
    ]
    assert heard(link, sent) == {"update": b"1"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ErrorCode.NODE_UNAVAILABLE, "lost"),
        (ErrorCode.CLIENT_APP_CRASHED, "lost"),
        (ErrorCode.MESSAGE_UNAVAILABLE, "lost"),
        (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "late"),
        (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "failed"),
        (ErrorCode.UNKNOWN, "failed"),
    ],
)
def test_error_replies_have_a_reason(grid, code, reason):
    link = flower.GridLink(grid)
    sent = link.send(11, "train", {})
    grid.waiting = [reply_to(sent, error=Error(code, "what happened"))]
    found = heard(link, sent)
    assert isinstance(found, Failure)
    assert found.reason == reason


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"other": ConfigRecord({"update": b"x"})})])
def test_a_reply_without_our_record_is_empty(grid, content):
    link = flower.GridLink(grid)
    sent = link.send(11, "train", {})
    grid.waiting = [reply_to(sent, content)]
    assert heard(link, sent) == {}


@pytest.mark.parametrize("error", [IndexError("pop from empty list"), ValueError("truncated message")])
def test_a_reply_that_flower_cannot_take_apart_is_malformed_and_no_more(grid, error):
    link = flower.GridLink(grid)
    sent = link.send(11, "join", {})
    grid.pull_messages = lambda ids: (_ for _ in ()).throw(error)
    found = heard(link, sent)
    assert isinstance(found, Failure)
    assert found.reason == "malformed"
    assert str(error) in found.detail


def test_a_broken_connection_is_no_fault_of_the_reply(grid):
    link = flower.GridLink(grid)
    sent = link.send(11, "join", {})
    grid.pull_messages = lambda ids: (_ for _ in ()).throw(httpx.ConnectError("gone"))
    with pytest.raises(httpx.ConnectError):
        heard(link, sent)


def test_a_run_that_was_stopped_at_the_superlink_is_an_error_with_a_number(grid):
    link = flower.GridLink(grid)
    sent = link.send(11, "join", {})

    def stopped(*_):
        raise flower.RunNotRunningException

    grid.pull_messages = grid.push_messages = grid.get_node_ids = stopped
    for call in (link.nodes, lambda: link.send(11, "train", {}), lambda: heard(link, sent)):
        with pytest.raises(EngineError, match="somebody has stopped it"):
            call()


def test_a_reply_whose_bytes_do_not_come_keeps_no_other_waiting(grid):
    link = flower.GridLink(grid)
    slow, fast = link.send(11, "train", {}), link.send(12, "train", {})
    come = threading.Event()
    answers = {name: reply_to(name, RecordDict({"fedhello": ConfigRecord({"update": b"1"})})) for name in (slow, fast)}

    def pull(ids):
        if slow in ids:
            assert come.wait(10)
        return [answers[name] for name in ids]

    grid.pull_messages = pull
    assert link.reply(slow) is None
    assert heard(link, fast) == {"update": b"1"}
    assert link.reply(slow) is None
    come.set()
    assert heard(link, slow) == {"update": b"1"}


def test_replies_that_nobody_waits_for_do_not_pile_up(grid):
    link = flower.GridLink(grid)
    sent = [link.send(11, "train", {}) for _ in range(3 * flower.ARRIVING)]
    for message in sent:
        link.reply(message)
        link.forget(message)
    grid.waiting = [reply_to(message, RecordDict()) for message in sent[:-1]]
    pull, fetched = grid.pull_messages, []
    grid.pull_messages = lambda ids: fetched.extend(ids) or pull(ids)
    for _ in range(200):
        link.nodes()
        time.sleep(0.001)
    assert set(sent) <= set(fetched)
    assert fetched.count(sent[0]) == 1
    assert fetched.count(sent[-1]) > 1  # it has not come yet
    late = link.send(12, "train", {})
    grid.waiting = [reply_to(late, RecordDict())]
    assert heard(link, late) == {}


def test_what_does_not_go_out_has_no_id(grid):
    grid.push_messages = lambda messages: [None]
    assert flower.GridLink(grid).send(11, "train", {}) == ""


def test_flower_says_nothing_to_anybody_and_installs_nothing():
    from flwr.supercore import telemetry

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert {name: os.environ[name] for name in QUIET} == QUIET


def test_only_the_networks_own_modules_import_flower():
    found = set()
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "flwr" for name in names):
                found.add(str(file.relative_to(SOURCES)))
    network = {"flower", "flower_app", "flower_client", "flower_main", "flower_nodes", "flower_pulls"}
    network |= {"flower_records", "strategy"}
    assert found == {f"network/{name}.py" for name in network} | {"flower.py"}


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # flwr 1.41 with pathspec 1
def test_the_app_that_is_submitted_brings_no_code():
    app, _ = flower.build_fab_from_files({"pyproject.toml": flower.APP.encode()})
    assert sorted(zipfile.ZipFile(io.BytesIO(app)).namelist()) == [".info/CONTENT", "pyproject.toml"]
