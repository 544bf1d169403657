"""The processes of Flower: ``python -m fedhello.network.flower_main superlink|supernode ARGUMENTS``.

They hold no model, so they import neither it nor what it needs, which would take seconds and hundreds of megabytes.
"""

import sys

from fedhello.network.processes import end_with_parent
from fedhello.notes import show_notes

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
        from flwr.supernode import fleet_http_client, start_client_internal
        from flwr.supernode.cli import flower_supernode

        from fedhello.network.flower_pace import Pace

        silence = httpx.Timeout(LONGEST_SILENCE, connect=30.0)
        ProtobufClient.__init__.__kwdefaults__["timeout"] = silence  # type: ignore[index]
        fleet_http_client.HEARTBEAT_CALL_TIMEOUT = LONGEST_HEARTBEAT  # type: ignore[attr-defined]
        http_retry.MAX_RETRY_DELAY = LONGEST_PAUSE  # type: ignore[attr-defined]  # Flower has no option for it
        start_client_internal.time = Pace()  # type: ignore[assignment,attr-defined]
        flower_supernode()


if __name__ == "__main__":
    main()
