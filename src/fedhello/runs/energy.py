"""Energy that this machine takes during a run: counted by the processor (RAPL), or by codecarbon where it is installed.

Linux shows the counters of RAPL, of each processor package and where there are any of its memory, in
``/sys/class/powercap``, often to root alone. They count what all programs of the machine take, and start again from 0
at their range, after some tens of minutes under load: they are read after every round. GPUs are not among them.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")

COUNTED = ("package-", "dram")
"""Zones of RAPL that add up: those of cores are part of their package's, and ``psys`` has all of them."""

KWH = 3.6e6
"""Joules of a kilowatt hour."""


class Meter(Protocol):
    """Measures energy from when it is made.

    Attributes:
        what: A sentence on what is measured.
    """

    what: str

    def joules(self) -> float:
        """Return the joules so far."""
        ...


@dataclass
class Rapl:
    """The counters of the processors.

    Attributes:
        ranges: File of a counter → the value, in µJ, at which it starts again from 0.
        last: File of a counter → its value when it was last read.
        total: µJ so far.
    """

    ranges: Mapping[Path, int]
    last: dict[Path, int]
    total: int = 0
    what: str = (
        "energy_joules is what the processors of this machine, and its memory where that is counted, took during the "
        "run, for all programs and without GPUs (RAPL)"
    )

    def joules(self) -> float:
        """Read the counters, each of which may have started again once since it was last read."""
        for file, before in self.last.items():
            now = int(file.read_text())
            self.total += now - before if now >= before else now + self.ranges[file] - before
            self.last[file] = now
        return self.total / 1e6


@dataclass
class Codecarbon:
    """The energy of tasks by codecarbon, without its network access and files.

    Attributes:
        tracker: Its tracker.
        total: J so far.
    """

    tracker: Any
    total: float = 0.0
    what: str = "energy_joules is what codecarbon measured, or estimated where it cannot, for this machine"

    def __post_init__(self) -> None:
        self.tracker.start_task(TASK)

    def joules(self) -> float:
        """End codecarbon's task, add what it took, and begin the next."""
        self.total += self.tracker.stop_task(TASK).energy_consumed * KWH
        self.tracker.start_task(TASK)
        return self.total


TASK = "fedhello"


def meter(powercap: Path = POWERCAP) -> Meter | None:
    """Return a meter that starts now; None if nothing measures energy here.

    Args:
        powercap: Where Linux shows the counters of RAPL.
    """
    ranges, last = {}, {}
    try:
        for zone in sorted(powercap.glob("intel-rapl:*")):  # those of AMD are called so, too
            if (zone / "name").read_text().strip().startswith(COUNTED):
                file = zone / "energy_uj"
                ranges[file] = int((zone / "max_energy_range_uj").read_text())
                last[file] = int(file.read_text())
    except (OSError, ValueError):  # since a side channel was found, only root may read them on many systems
        last = {}
    return Rapl(ranges, last) if last else _codecarbon()


def _codecarbon() -> Meter | None:
    if importlib.util.find_spec("codecarbon") is None:
        return None
    try:
        # The country is for grams of CO₂, which are not used; without one, it would be looked up on the network.
        how: Mapping[str, Any] = {"save_to_file": False, "log_level": "critical", "allow_multiple_runs": True}
        tracker = importlib.import_module("codecarbon").OfflineEmissionsTracker
        return Codecarbon(tracker(country_iso_code="FRA", **how))
    except Exception:  # whatever it raises, a run does without
        return None


@dataclass
class Energy:
    """The energy of a run, over all its processes.

    Attributes:
        before: Joules of earlier processes; None if one of them did not measure.
        meter: Measures this process; None if nothing does.
    """

    before: float | None = 0.0
    meter: Meter | None = None

    def joules(self) -> float | None:
        """Return the joules so far; None if they are not known of the whole run."""
        if self.meter is None or self.before is None:
            return None
        try:
            return self.before + self.meter.joules()
        except Exception:  # a counter is not readable any more, or an error of codecarbon
            self.meter = None
            return None

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on what was measured; none if nothing was."""
        return () if self.meter is None or self.before is None else (self.meter.what,)
