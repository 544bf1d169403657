"""Flower in one process: a grid whose nodes are ClientApps that answer at once, and faults on demand."""

import itertools

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


class LocalGrid(Grid):
    """Nodes by id: ``connect`` adds one, ``nodes.pop`` takes it away.

    ``faults`` maps a node to a function of the message and its reply, which returns the reply that comes back, or None
    for none.
    """

    def __init__(self, monkeypatch):
        # Outside a run, Flower does not say which node it is.
        for name in ("_run_id", "_node_id", "_task_id"):
            monkeypatch.setattr(TaskIdentity, name, 1)
        self.nodes, self.faults, self.sent = {}, {}, []
        self._numbers = itertools.count(100)

    def connect(self, app, run_config=None, **node_config):
        node = next(self._numbers)
        self.nodes[node] = (
            app,
            Context(run_id=1, node_id=node, node_config=node_config, state=RecordDict(), run_config=run_config or {}),
        )
        return node

    def get_node_ids(self):
        return list(self.nodes)

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"message {next(self._numbers)}"
        self.sent += messages
        replies = [self._reply(message) for message in messages]
        return [reply for reply in reversed(replies) if reply is not None]  # in no order that anybody may rely on

    def _reply(self, message):
        node = message.metadata.dst_node_id
        if node not in self.nodes:
            return self.error(message, ErrorCode.NODE_UNAVAILABLE)
        app, context = self.nodes[node]
        try:
            reply = app(message, context)
        except Exception as error:  # as Flower does
            reply = self.error(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
        fault = self.faults.get(node)
        if fault is None or not message.metadata.message_type.startswith(("train", "evaluate")):
            return reply
        return fault(message, reply)

    @staticmethod
    def error(message, code, reason="what happened"):
        reply = Message(Error(code, reason), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 1  # the SuperLink speaks
        return reply

    def trained(self):
        """Return the messages to train, in the order in which they were sent."""
        return [message for message in self.sent if message.metadata.message_type == "train"]

    def set_run(self, run):
        raise NotImplementedError

    run = property(set_run)
    create_message = push_messages = pull_messages = set_run
