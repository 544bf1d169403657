import logging
from types import SimpleNamespace

import pytest
from handmade import begun, lost, played, session, trained

from fedhello.notes import fields_of
from fedhello.runs.events import Events
from fedhello.session import ClientEntry


def test_each_thing_that_happens_is_told_with_its_fields_and_names_where_they_are_known(caplog):
    roster = (ClientEntry(0, 0, 10, {}, {"name": "berlin"}), ClientEntry(1, 0, 10, {}))
    told = Events()
    with caplog.at_level(logging.INFO, "fedhello"):
        told.on_start(session(roster=roster), begun())
        told.on_round(None, played(0, [trained(1)], rejections=(lost(0, detail="no reply within 30 s"),), attempt=1))
        told.on_round(None, played(1, failed="0 of 2 updates count"))
    note, started, rejected, finished, failed = [(r.levelname, fields_of(r.msg)) for r in caplog.records]
    assert note == ("WARNING", {}) and caplog.records[0].message == "said before"
    assert started[1]["event"] == "started" and (started[1]["rounds"], started[1]["clients"]) == (4, 2)
    assert rejected == (
        "WARNING",
        {
            "event": "rejected", "client": 0, "name": "berlin", "reason": "late", "detail": "no reply within 30 s",
            "round": 0, "attempt": 1,
        },
    )  # fmt: skip
    assert finished[0] == "INFO"
    assert {key: finished[1][key] for key in ("event", "round", "clients", "bytes_up", "bytes_down", "seconds")} == {
        "event": "round", "round": 0, "clients": [1], "bytes_up": 100, "bytes_down": 300, "seconds": 2.0,
    }  # fmt: skip
    assert failed == (
        "WARNING",
        {"event": "failed attempt", "reason": "0 of 2 updates count", "round": 1, "attempt": 0},
    )


def test_under_differential_privacy_no_event_says_who_took_part(caplog):
    roster = (ClientEntry(7, 0, 10, {}, {"name": "berlin"}), ClientEntry(8, 0, 10, {}))
    told = Events()
    with caplog.at_level(logging.INFO, "fedhello"):
        told.on_start(session(roster=roster, private=object()), begun())
        rejections = (lost(7, detail="no reply of client 7 within 30 s"),)
        told.on_round(None, played(0, [trained(8)], rejections=rejections, attempt=1))
    *_, rejected, finished = [fields_of(record.msg) for record in caplog.records]
    assert rejected == {"event": "rejected", "reason": "late", "round": 0, "attempt": 1}
    assert caplog.records[-2].message == "the reply of a client does not count: late"
    assert finished["event"] == "round" and not {"clients", "client", "name"} & finished.keys()


@pytest.mark.parametrize(
    ("error", "stopped", "reason"),
    [(None, "train.target after round 3", "train.target after round 3"), ("e", None, "e")],
)
def test_the_end_has_its_reason_whatever_ended_the_run(caplog, error, stopped, reason):
    summary = SimpleNamespace(status="stopped", rounds=3, final=0.5, wall_seconds=1.0, error=error, stopped=stopped)
    with caplog.at_level(logging.INFO, "fedhello"):
        Events().on_end(summary)
    assert fields_of(caplog.records[0].msg)["reason"] == reason
