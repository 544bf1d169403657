"""Many machines: Flower, the server, and clients with data of their own."""

import os

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables under which Flower sends no telemetry and installs nothing."""

# flwr reads them when it is imported.
os.environ.update(QUIET)
os.environ.setdefault("FLWR_LOG_LEVEL", "WARNING")
