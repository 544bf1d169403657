"""Federations on many machines: the server and its clients, over Flower."""

import os

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment variables that switch off Flower's telemetry and installations."""

# flwr reads them when it is imported.
os.environ.update(QUIET)
os.environ.setdefault("FLWR_LOG_LEVEL", "WARNING")
