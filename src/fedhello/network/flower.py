"""The link over Flower. Only ``network/flower*.py`` and ``network/strategy.py`` import flwr.

    Flower's part                here
    SuperLink, SuperNode         children of the server and of each client, started by ``flower_main``
    run, ServerApp process       ``opened``: the server's own process submits the run, takes its task and gets the grid
    message, ClientApp process   ``answered``: the client's own, warm process takes the tasks of its SuperNode

Flower by default starts a new process for every message, which loads the model again, and installs and runs the code
that the server sends. Here server and client take their tasks themselves, as Flower's own processes do under
``--isolation process``, so the model stays loaded and received code is never run. A secret of each server and client
prevents other users of the machine from taking the tasks.

Under ``flwr run`` and ``flower-supernode`` a message costs a process: see ``flower_app``.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.serverapp import Grid
from flwr.supercore import telemetry
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from fedhello.errors import EngineError, UpdateError
from fedhello.network.flower_pulls import Pulls
from fedhello.network.flower_records import REASONS, RECORD
from fedhello.network.messages import Address, Failure, Fields, Reply
from fedhello.notes import logger

telemetry.FLWR_TELEMETRY_ENABLED = "0"  # for where something else has imported flwr before

TTL = 7 * 24 * 3600.0
"""Seconds that a message stays valid; far more than any deadline, since Flower compares clocks of two machines."""

RETRY_SECONDS = 30.0
"""Seconds that a call to this machine's own SuperLink is repeated before it is an error."""

BROKEN_OFF = (httpx.HTTPError, RunNotRunningException, ObjectPullError)
"""Exceptions of Flower if the SuperNode or the server has ended."""

POLL = 0.1
"""Seconds between two polls for a task."""


APP = """
[project]
name = "fedhello"
version = "0"
description = "Federated fine-tuning within budgets"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedhello"

[tool.flwr.app.components]
serverapp = "fedhello.network.flower_app:server_app"
clientapp = "fedhello.network.flower_app:client_app"

[tool.flwr.app.config]
"""
"""The app of a submitted run: it names installed code and contains none."""


ARRIVING = 16
"""The most replies that are fetched, and in memory, at a time."""


class GridLink:
    """Flower's grid as a ``Link``: messages to nodes, and their replies one at a time.

    Replies are fetched in threads, so that a large one does not delay others. No thread waits for a reply that has not
    arrived, see ``Pulls``.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._pulls = Pulls(grid)
        self._threads = ThreadPoolExecutor(ARRIVING + 1, thread_name_prefix="reply")
        self._arriving: dict[str, Future[Reply | None]] = {}
        self._unwanted: deque[str] = deque()
        self._dropping: Future[None] | None = None

    def nodes(self) -> frozenset[int]:
        """Return the nodes that are connected now."""
        self._drop()
        with _still_running():
            return frozenset(self._grid.get_node_ids())

    def send(self, node: int, kind: str, fields: Fields, group: str = "") -> str:
        """Send a message and return its id; an empty one if it did not go out."""
        record = ConfigRecord({"kind": kind, **fields})
        message = Message(
            RecordDict({RECORD: record}), node, "train" if kind == "train" else "query", ttl=TTL, group_id=group
        )
        with _still_running():
            return next(iter(self._grid.push_messages([message])), None) or ""

    def reply(self, message_id: str) -> Reply | None:
        """Return the reply to a message; None if there is none yet, or while it arrives."""
        if message_id not in self._arriving:
            if len(self._arriving) < ARRIVING:
                self._arriving[message_id] = self._threads.submit(self._fetch, message_id)
            return None
        if not self._arriving[message_id].done():
            return None
        return self._arriving.pop(message_id).result()

    def forget(self, message_id: str) -> None:
        """Give up a reply: it is fetched and dropped when it comes, since Flower keeps it in memory until then."""
        self._arriving.pop(message_id, None)
        self._unwanted.append(message_id)

    def _drop(self) -> None:
        if self._dropping is not None and self._dropping.done():
            self._dropping.result()  # raises the thread's exception
            self._dropping = None
        if self._unwanted and self._dropping is None:
            self._dropping = self._threads.submit(self._fetch_unwanted)

    def _fetch_unwanted(self) -> None:
        for _ in range(len(self._unwanted)):
            message_id = self._unwanted.popleft()
            if self._fetch(message_id) is None:
                self._unwanted.append(message_id)

    def close(self) -> None:
        """Stop waiting for replies."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, message_id: str) -> Reply | None:
        try:
            with _still_running():
                return self._pull(message_id)
        except (httpx.HTTPError, EngineError):
            raise
        except ObjectPullError as error:
            self._pulls.forget(message_id)
            return Failure("lost", f"its reply was announced and never uploaded: {error}")
        except UpdateError as error:
            return Failure(error.reason, str(error))
        except Exception as error:  # Flower parses untrusted replies without handling errors
            return Failure("malformed", f"Flower cannot read the reply: {error!r}")

    def _pull(self, message_id: str) -> Reply | None:
        message = self._pulls.fetch(message_id)
        if message is None:
            return None
        if message.has_error():
            error = message.error
            return Failure(REASONS.get(error.code, "failed"), f"Flower's error {error.code}: {error.reason}")
        return fields_of(message)


@contextmanager
def _still_running() -> Iterator[None]:
    """Turn Flower's signal that the run was stopped, which is not an ``Exception``, into an ``EngineError``."""
    try:
        yield
    except RunNotRunningException as error:
        raise EngineError(
            "expected the run to go on; somebody has stopped it at the SuperLink, by Flower's Control API. All "
            "finished rounds are saved: start the server again, with the same command."
        ) from error


def fields_of(message: Message) -> Fields:
    """Return the content of a message; empty if it is not one of fedhello's."""
    record = message.content.get(RECORD)
    return dict(record) if isinstance(record, ConfigRecord) else {}


@contextmanager
def opened(address: Address, secret: bytes) -> Iterator[GridLink]:
    """Submit a run to the SuperLink of this machine and yield the link to its nodes.

    Raises:
        EngineError: If the SuperLink does not accept it.
    """
    fab, _ = build_fab_from_files({"pyproject.toml": APP.encode()})
    _start_run(address, Fab(hashlib.sha256(fab).hexdigest(), fab, {}))
    token = _acquire(_superexec(address, secret), "flwr-serverapp", RETRY_SECONDS)
    if token is None:
        raise EngineError(f"expected the SuperLink at {address.host_port} to hand out the run; it did not")
    grid = HttpGrid(address.host_port, address.insecure, address.certificate(), token=token)
    grid._retry_invoker.max_time = RETRY_SECONDS
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
    heartbeat.start()
    status = SubStatus.FAILED
    try:
        taken = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        # Flower's own checks read the current task of this process.
        TaskIdentity.task_id, TaskIdentity.run_id = taken.task_id, taken.run.run_id
        TaskIdentity.node_id = taken.context.node_id
        grid.set_run(run_from_proto(taken.run))
        with closing(GridLink(grid)) as link:
            yield link
        status = SubStatus.COMPLETED
    except httpx.HTTPError as error:
        raise EngineError(
            f"expected the SuperLink at {address.host_port} to go on; it broke off ({error!r}). All finished rounds "
            "are saved: start the server again, with the same command."
        ) from error
    finally:
        grid._retry_invoker.max_tries = 1
        _quietly(lambda: grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status)))
        _end(heartbeat)
        grid.close()


class ControlledNodes:
    """The nodes that may connect to the SuperLink of this machine, one per public key.

    Only a key's owner can connect as its node, since Flower checks a signature by it.

    Args:
        address: The SuperLink's.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    def register(self, file: Path) -> int:
        """Return the node of a public key.

        Raises:
            EngineError: If the SuperLink refuses it.
        """
        try:
            with closing(_control(self._address)) as client:
                found = client.RegisterNode(RegisterNodeRequest(public_key=_public_key(file)))
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise EngineError(
                f"expected the public key of a client in {file}; Flower refuses it: {error!r}. A key that was "
                "registered and removed is refused until the server starts again: make another."
            ) from error
        return int(found.node_id)

    def unregister(self, node: int) -> None:
        """Forget a node. Of one that never connected, Flower fails to reply after it has done so."""
        with closing(_control(self._address)) as client, suppress(httpx.HTTPError):
            client.UnregisterNode(UnregisterNodeRequest(node_id=node))


def _public_key(file: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    key = load_ssh_public_key(file.read_bytes())
    if not isinstance(key, EllipticCurvePublicKey):
        raise ValueError("it is no elliptic-curve key")
    return public_key_to_bytes(key)


def answered(
    address: Address, secret: bytes, answer: Callable[[str, Fields], Fields], going_on: Callable[[], bool]
) -> None:
    """Take the messages that reach this machine's SuperNode, one by one, and answer them in this process.

    Args:
        address: The SuperNode's address.
        secret: The secret with which the SuperNode was started.
        answer: Kind and fields of a message → fields of the reply; any exception becomes an error reply.
        going_on: Called after each message and at least once a second; whether to continue.
    """
    tasks = _superexec(address, secret)
    silent = True  # until it has started
    try:
        while going_on():
            try:
                token = _acquire(tasks, "flwr-clientapp", 1.0)
                silent = False
                if token is not None:
                    _answer_one(address, token, answer)
            except BROKEN_OFF as error:
                if not silent:
                    logger.warning("the connection broke off, and is made again: %r", error)
                silent = True
                time.sleep(1.0)
    finally:
        tasks.close()


def _answer_one(address: Address, token: str, answer: Callable[[str, Fields], Fields]) -> None:
    client = _runtime(address, "flwr-clientapp", RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        # The app in the task is neither unpacked nor run.
        message, context, _, _ = pull_task_input(client)
        fields = fields_of(message)
        try:
            record = ConfigRecord(answer(str(fields.pop("kind", "")), fields))
        except Exception as error:  # an unexpected error is sent to the server before this process ends
            failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__)
            push_message(client, Message(failed, reply_to=message), context)
            raise
        push_message(client, Message(RecordDict({RECORD: record}), reply_to=message), context)
        push_task_output(client, context, SubStatus.COMPLETED, "")
    finally:
        _end(heartbeat)
        client.close()


def _acquire(client: RuntimeHttpClient, kind: str, seconds: float) -> str | None:
    """Return the token of the next task of a kind; None if none comes within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
        if found.token:
            return str(found.token)
        time.sleep(POLL)
    return None


def _superexec(address: Address, secret: bytes) -> RuntimeHttpClient:
    protected = frozenset({"/flwr.proto.Runtime/AcquireTask"})
    return _runtime(
        address, "SuperExec", SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=protected)
    )


def _runtime(address: Address, component: str, credential: Any) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        address.host_port,
        address.insecure,
        address.certificate(),
        [RuntimeVersionHttpInterceptor(component_name=component), credential],
    )


def _control(address: Address) -> ControlHttpClient:
    return ControlHttpClient.from_server_address(
        address.host_port,
        address.insecure,
        address.certificate(),
        [RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )


def _start_run(address: Address, app: Fab) -> None:
    client = _control(address)
    try:
        client.StartRun(StartRunRequest(fab=fab_to_proto(app)))
    except httpx.HTTPError as error:
        raise EngineError(f"expected the SuperLink at {address.host_port} to take a run; {error!r}") from error
    finally:
        client.close()


def _end(heartbeat: HeartbeatSender) -> None:
    if heartbeat.is_running:
        heartbeat.stop()


def _quietly(call: Callable[[], object]) -> None:
    """Call a SuperLink that may have ended already, and log an error."""
    try:
        call()
    except (httpx.HTTPError, RuntimeError, RunNotRunningException) as error:
        logger.warning("the SuperLink did not hear the end of the run: %r", error)
