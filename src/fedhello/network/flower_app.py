"""The apps of plain ``flwr run`` and ``flower-supernode``, which start one process per message."""

import json
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedhello.network.flower import GridLink, fields_of
from fedhello.network.flower_records import RECORD
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
