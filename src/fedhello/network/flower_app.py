"""Processes that Flower starts: SuperLink, SuperNode, and the apps of plain ``flwr run`` and ``flower-supernode``.

The plain apps start one process per message, which loads the model again.
"""

import json
import sys
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedhello.network.flower import GridLink, fields_of
from fedhello.network.flower_records import RECORD
from fedhello.network.processes import end_with_parent
from fedhello.notes import show_notes

server_app = ServerApp()


client_app = ClientApp()


@server_app.main()
def _serve(grid: Grid, context: Context) -> None:
    """Run the configuration in ``--run-config 'config="…"'`` under plain ``flwr run``."""
    from fedhello.network.server import serve_on

    show_notes()
    serve_on(GridLink(grid), Path(str(context.run_config["config"])), print)


@client_app.train()
@client_app.query()
def _cold(message: Message, context: Context) -> Message:
    """Answer one message under a plain ``flower-supernode``, whose ``--node-config`` contains a client's options.

    The content of the message ``join`` is stored between messages, since the process ends after each.
    """
    from fedhello.network.client import cold_worker

    show_notes()
    fields, kept = fields_of(message), context.state.get(RECORD)
    kind = str(fields.pop("kind", ""))
    if kind == "join":
        context.state[RECORD] = ConfigRecord({"join": json.dumps({k: v for k, v in fields.items() if k != "probe"})})
    worker = cold_worker(dict(context.node_config))
    if kind != "join" and isinstance(kept, ConfigRecord):
        worker.answer("join", json.loads(str(kept["join"])))
    return Message(RecordDict({RECORD: ConfigRecord(worker.answer(kind, fields))}), reply_to=message)


LONGEST_PAUSE = 4
"""The most seconds between a SuperNode's tries to reach a server; Flower's default of 20 delays reconnection."""


LONGEST_UPLOAD = 7200
"""The most seconds of an upload to the SuperLink; Flower's default of 180 loses large updates on slow links."""


LONGEST_SILENCE = 300
"""The most seconds that a SuperNode waits for the server to take or send another byte. What the machine has buffered of
an update, up to 4 MB, takes longer on a slow link than Flower's default of 30; the update is then sent twice."""


LONGEST_HEARTBEAT = 20
"""The most seconds of a heartbeat, which queues behind updates on a slow link; Flower's default is 5."""


def main() -> None:
    """Run a SuperLink or a SuperNode that ends with its parent."""
    end_with_parent()
    show_notes()
    what = sys.argv.pop(1)
    if what == "superlink":
        from flwr.supercore.corestate import in_memory_corestate
        from flwr.superlink.cli import flower_superlink

        in_memory_corestate.OBJECT_PUSH_SESSION_TTL_SECONDS = LONGEST_UPLOAD  # type: ignore[attr-defined]
        flower_superlink()
    else:
        import httpx
        from flwr.supercore.protobuf.client import ProtobufClient
        from flwr.supercore.retry import http_retry
        from flwr.supernode import fleet_http_client
        from flwr.supernode.cli import flower_supernode

        silence = httpx.Timeout(LONGEST_SILENCE, connect=30.0)
        ProtobufClient.__init__.__kwdefaults__["timeout"] = silence  # type: ignore[index]
        fleet_http_client.HEARTBEAT_CALL_TIMEOUT = LONGEST_HEARTBEAT  # type: ignore[attr-defined]
        http_retry.MAX_RETRY_DELAY = LONGEST_PAUSE  # type: ignore[attr-defined]  # Flower has no option for it
        flower_supernode()


if __name__ == "__main__":
    main()
