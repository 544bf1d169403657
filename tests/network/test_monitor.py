from pathlib import Path
from types import SimpleNamespace

import pytest
from handmade import begun, lost, played, session, trained

pytest.importorskip("prometheus_client", reason="needs the extra flower")
from prometheus_client import CollectorRegistry

from fedhello.network.monitor import FEW, FIRST, LEAST, TIMES, Monitor
from fedhello.runs.heads import HeadChange
from fedhello.runs.status import BestScore, ClientStatus, ConnectedClient, Status
from fedhello.session import RunSettings


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def monitor(now, tmp_path):
    return Monitor(tmp_path / "net", lambda: now[0])


def remote(**changes):
    """A session of three clients on other machines, of which each round needs two."""
    federation = SimpleNamespace(quorum=2)
    return session(settings=RunSettings(0, 4, is_remote=True), federation=federation, roster=(None,) * 3, **changes)


def doing(phase="training", clients=(), connected=(), updated=100.0, round=0):
    here = tuple(ConnectedClient(k, f"c{k}", seen) for k, seen in enumerate(connected))
    asked = tuple(ClientStatus(k, f"c{k}", 0, what, 0, 0, 0.0) for k, what in enumerate(clients))
    best = BestScore(0.4, 1)
    return Status(1, "h", phase, round, 4, 0, 0.0, updated, 0.0, None, best, asked, here, memory_bytes=10**6)


def figures(monitor):
    registry = CollectorRegistry()
    registry.register(monitor)
    return {
        sample.name.removeprefix("fedhello_") + sample.labels.get("reason", ""): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_figures_are_sums_over_all_attempts_of_earlier_processes_too(monitor, now):
    change = HeadChange(3, 30, bytes_up=1, bytes_down=2)
    before = played(0, [trained(0), trained(1)], rejections=(lost(2, up=5, reason="checksum"),))
    monitor.on_start(
        remote(), begun(validation=0.9, head=change).__class__(**{**vars(begun(head=change)), "records": (before,)})
    )
    monitor.on_round(None, played(1, [trained(0)], failed="1 of 3", rejections=(lost(1, reason="lost"),)))
    monitor.on_round(None, played(1, [trained(0)], validation=0.3, test=0.6))
    found = figures(monitor)
    assert (found["round"], found["rounds"], found["clients"]) == (2, 4, 3)
    assert found["received_bytes_total"] == 1 + (2 * 100 + 5) + 100 + 100
    assert found["sent_bytes_total"] == 2 + 3 * 300 + 2 * 300 + 300
    assert found["failed_attempts_total"] == 1
    assert (found["rejections_totalchecksum"], found["rejections_totallost"], found["rejections_totallate"]) == (
        1,
        1,
        0,
    )
    assert (found["round_seconds_count"], found["round_seconds_sum"]) == (3, 3 * 2.25)
    assert found["last_round_seconds"] == 2.25
    assert (found["validation_accuracy"], found["best_validation_accuracy"], found["test_accuracy"]) == (0.3, 0.4, 0.6)
    assert found["disk_free_bytes"] > 0


def test_labels_are_of_a_bounded_number(monitor):
    families = {family.name: family for family in monitor.collect()}
    assert {key for family in families.values() for sample in family.samples for key in sample.labels} == {
        "reason", "run", "version",
    }  # fmt: skip
    assert len(families["fedhello_rejections"].samples) == 15


def test_who_is_connected_is_who_was_seen_when_the_server_last_looked(monitor):
    monitor.on_start(remote(), begun())
    monitor.on_progress(doing(clients=["sent", "late", "lost"], connected=[100.0, 99.5, 60.0]))
    found = figures(monitor)
    assert (found["clients_connected"], found["clients_asked"], found["clients_late"]) == (2, 3, 2)
    # It does not look while it scores, however long that takes.
    monitor.on_progress(doing("scoring", connected=[100.0, 99.5, 60.0], updated=500.0))
    assert figures(monitor)["clients_connected"] == 2
    monitor.on_progress(doing(connected=[100.0, 99.5, 60.0], updated=501.0))
    assert figures(monitor)["clients_connected"] == 0


def test_while_it_loads_and_waits_it_is_well(monitor, now):
    assert monitor.health() | {"seconds_since_progress": 0} == {
        "status": "ok", "reason": None, "phase": "loading", "round": 0, "rounds": None, "clients": None,
        "connected": None, "seconds_since_progress": 0,
    }  # fmt: skip
    now[0] = FIRST - 1
    monitor.on_waiting(1, 3)
    now[0] += FIRST - 1
    found = monitor.health()
    assert (found["reason"], found["phase"], found["connected"], found["clients"]) == (None, "waiting", 1, 3)
    now[0] += 2
    assert monitor.health()["reason"].startswith("stalled: no sign of life for 3601 s")


def test_a_run_has_stalled_once_nothing_happens_for_far_longer_than_a_round(monitor, now):
    monitor.on_start(remote(), begun())
    monitor.on_round(None, played(0, [trained(0)]))
    now[0] = LEAST - 1
    assert monitor.complaint() is None
    now[0] = LEAST + 1
    assert "stalled" in monitor.complaint()
    monitor.on_progress(doing(clients=["training", "waiting"], connected=[100.0, 100.0]))
    assert monitor.complaint() is None
    monitor.on_progress(doing(clients=["training", "waiting"], connected=[100.0, 100.0], updated=101.0))  # nothing new
    now[0] += LEAST + 1
    assert "stalled" in monitor.complaint()
    slow = played(1, [trained(0)]).__class__(**{**vars(played(1, [trained(0)])), "seconds": 1000.0})
    monitor.on_round(None, slow)
    now[0] += TIMES * 1000
    assert monitor.complaint() is None


def test_too_few_clients_and_a_failed_attempt_are_said_until_they_are_over(monitor, now):
    monitor.on_start(remote(), begun())
    monitor.on_progress(doing(connected=[100.0, 0.0, 0.0]))
    assert monitor.complaint() is None
    now[0] = FEW + 1
    assert monitor.complaint() == "waiting for clients: 1 are connected, and a round needs 2"
    monitor.on_progress(doing(connected=[100.0, 100.0, 0.0]))
    assert monitor.complaint() is None
    monitor.on_round(None, played(0, failed="1 of 3 updates count"))
    assert monitor.health() | {"reason": None} != monitor.health()
    assert monitor.complaint() == "round 1 failed: 1 of 3 updates count"
    assert figures(monitor)["healthy"] == 0
    monitor.on_round(None, played(0, [trained(0), trained(1)]))
    assert (monitor.complaint(), figures(monitor)["healthy"]) == (None, 1)


def test_on_one_machine_nobody_is_connected_or_missing(now):
    monitor = Monitor(Path("nowhere"), lambda: now[0])
    monitor.on_start(session(roster=(None,) * 3), begun())
    monitor.on_progress(doing(clients=["training"]))
    now[0] = FEW + 1
    assert monitor.complaint() is None
    assert "clients_connected" not in figures(monitor)
