"""Case 52: server and clients as real processes are killed and started again; the run finishes."""

import json
import shutil
import signal

import pytest
from machines import CONFIG, Machines

pytest.importorskip("flwr", reason="needs the extra flower")
pytestmark = pytest.mark.slow


@pytest.fixture
def machines(workplace, tmp_path):
    made = []

    def build(config=CONFIG):
        shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
        made.append(Machines(tmp_path / "place", config))
        return made[0]

    yield build
    made[0].close()


def test_the_server_is_killed_and_started_again(machines):
    net = machines(CONFIG.replace("rounds: 2", "rounds: 6"))
    net.server()
    for k in range(3):
        net.client(k)
    net.wait_for(lambda: len(net.rounds()) >= 2, what="round 2")
    before = net.rounds()[:2]
    net.kill("server")
    net.wait_for(lambda: not net.left()[1], seconds=20, what="the end of the SuperLink")
    done = len(net.rounds())
    net.server()
    back = net.wait_for(lambda: len(net.rounds()) > done, what="another round")
    assert net.end("server") == 0, net.all_said()
    assert [entry["round"] for entry in net.rounds()] == list(range(6))
    assert net.rounds()[:2] == before
    assert all(len(entry["clients"]) == 3 for entry in net.rounds()[done + 1 :])
    assert [net.end(f"client-{k}") for k in range(3)] == [0, 0, 0]
    assert net.left() == ([], False)
    print(f"back after {back:.0f} s")


def test_the_superlink_alone_is_killed_twice_and_the_run_goes_on(machines):
    net = machines(CONFIG.replace("rounds: 2", "rounds: 8"))
    net.server()
    for k in range(3):
        net.client(k)
    for done in (2, 4):
        net.wait_for(lambda done=done: completed(net) >= done, what=f"round {done}")
        before = completed(net)
        net.children("server", "superlink").kill()
        back = net.wait_for(lambda before=before: completed(net) > before + 1, what="two more rounds")
        print(f"back after {back:.0f} s")
    assert net.end("server") == 0, net.all_said()
    assert [entry["round"] for entry in net.rounds() if entry["failed"] is None] == list(range(8))
    assert [net.end(f"client-{k}") for k in range(3)] == [0, 0, 0]
    notes = json.loads((net.run / "summary.json").read_text())["notes"]
    restarts = [note for note in notes if "ended (by signal SIGKILL) and was started again" in note]
    assert [restart in (net.run / "log.txt").read_text() for restart in restarts] == [True, True]
    assert net.left() == ([], False)


def completed(net):
    return sum(entry["failed"] is None for entry in net.rounds())


def test_a_client_is_killed_and_started_again(machines):
    net = machines(CONFIG.replace("rounds: 2", "rounds: 500"))
    net.server()
    for k in range(3):
        net.client(k)
    net.wait_for(lambda: net.rounds(), what="round 1")
    net.kill("client-1")
    lost = net.wait_for(lambda: any(entry["rejections"] for entry in net.rounds()), what="a round without client 1")
    assert net.rounds()[-1]["failed"] is None  # two of three are a quorum
    net.client(1)
    done = len(net.rounds())
    net.wait_for(lambda: any(len(e["clients"]) == 3 for e in net.rounds()[done:]), what="its return")
    net.started["server"].send_signal(signal.SIGINT)
    assert net.end("server") == 130
    net.wait_for(lambda: not net.left()[1], seconds=20, what="the end of the SuperLink")
    assert {r["reason"] for entry in net.rounds() for r in entry["rejections"]} <= {"lost", "late"}
    print(f"lost after {lost:.0f} s")


def test_a_client_that_hangs_is_late_and_the_run_goes_on(machines):
    net = machines(CONFIG.replace("rounds: 2", "rounds: 500").replace("deadline_floor: 20", "deadline_floor: 12"))
    net.server()
    for k in range(3):
        net.client(k)
    net.wait_for(lambda: net.rounds(), what="round 1")
    worker = net.children("client-2", "fedhello.network.client")
    worker.suspend()
    net.wait_for(lambda: any(entry["rejections"] for entry in net.rounds()), what="a round without client 2")
    late = next(entry for entry in net.rounds() if entry["rejections"])
    assert late["failed"] is None
    assert [(r["client"], r["reason"]) for r in late["rejections"]] == [(2, "late")]
    worker.resume()
    done = len(net.rounds())
    net.wait_for(lambda: any(len(e["clients"]) == 3 for e in net.rounds()[done:]), what="its return")
