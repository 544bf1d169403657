"""Fetch the replies to messages from Flower's SuperLink without waiting for those that are not there yet.

The SuperLink announces a reply before its bytes have arrived. Flower's grid then waits for them, up to two hours, in
the thread that asks. A client that announces a reply and never uploads it would hold that thread, and as many such
clients as there are threads would hold all replies. Here a call asks once for what is missing and returns: the caller
comes back later, or gives the reply up.
"""

from typing import cast

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, inflate_object_from_contents
from flwr.superlink.grid import HttpGrid

from fedhello.errors import UpdateError

MOST_OBJECTS = 16
"""The most parts of a reply; fedhello's have three: the message, its records, and the record with all fields."""


class Pulls:
    """The replies that were announced and have not been fetched.

    A reply is announced once, so what is announced is kept until it is fetched or given up.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._announced: dict[str, ObjectTree] = {}

    def fetch(self, message_id: str) -> Message | None:
        """Return the reply to a message; None if it, or a part of it, has not arrived.

        Raises:
            UpdateError: If it has more parts than a reply of fedhello.
            ObjectPullError: If it will not arrive any more.
            httpx.HTTPError: If the SuperLink does not answer.
        """
        if not isinstance(self._grid, HttpGrid):  # a grid within one process has no uploads
            return next((m for m in self._grid.pull_messages([message_id]) if _answers(m, message_id)), None)
        if message_id not in self._announced:
            request = PullAppMessagesRequest(message_ids=[message_id])
            found = self._grid._runtime_client.PullMessages(request)
            for announced, tree in zip(found.messages_list, found.message_object_trees, strict=True):
                # Error replies that the SuperLink makes come from node 1; what they answer is what identifies them.
                if announced.metadata.reply_to_message_id == message_id:
                    self._announced.setdefault(message_id, tree)
        tree = self._announced.get(message_id)
        return None if tree is None else self._fetch_whole(message_id, tree)

    def forget(self, message_id: str) -> None:
        """Give up a reply."""
        self._announced.pop(message_id, None)

    def _fetch_whole(self, message_id: str, tree: ObjectTree) -> Message | None:
        """Return a message once all its parts are there; the small ones are asked for first, and nothing is kept."""
        grid = cast(HttpGrid, self._grid)
        parts = [part.object_id for part in iterate_object_tree(tree)]
        if len(parts) > MOST_OBJECTS:
            self.forget(message_id)
            raise UpdateError(f"expected a reply of at most {MOST_OBJECTS} parts; found {len(parts)}", "malformed")
        run = grid.run.run_id
        pull = make_pull_object_fn_protobuf(grid._runtime_client.PullObject, grid.node, run)
        try:
            contents = {part: pull(part) for part in reversed(parts)}
        except ObjectUnavailableError:
            return None
        request = ConfirmMessageReceivedRequest(node=grid.node, run_id=run, message_object_id=tree.object_id)
        grid._runtime_client.ConfirmMessageReceived(request)
        self.forget(message_id)
        message = cast(Message, inflate_object_from_contents(tree.object_id, contents))
        return message if _answers(message, message_id) else None


def _answers(message: Message, message_id: str) -> bool:
    return bool(message.metadata.reply_to_message_id == message_id)
