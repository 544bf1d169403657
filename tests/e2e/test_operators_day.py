"""An operator's day, on real processes: the steps of ``docs/how-to/operate-a-federation.md``, one after the other.

A server and three clients with keys; every round needs all three, so that a run waits where one is missing, and must
come to what an undisturbed run comes to.
"""

import json
import os
import shutil
import signal
import urllib.error
import urllib.request

import pytest
from machines import CONFIG, Machines
from prometheus_client.parser import text_string_to_metric_families

from fedhello.errors import EngineError
from fedhello.network.processes import free_port

pytest.importorskip("flwr", reason="needs the extra flower")

ROUNDS = 30
ALL_THREE = (
    CONFIG.replace("rounds: 2", f"rounds: {ROUNDS}")
    .replace("quorum: 0.5", "quorum: 1.0")
    .replace(
        "tiers: [{share: 1/3, blocks: 1}, {share: 1/3, blocks: 2}, {share: 1/3, blocks: 3}]",
        "tiers: [{share: 1, blocks: 2}]",
    )
)
NAMES = ("berlin", "madrid", "paris")


def asked(port, path):
    """Return the status and the text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def health(port):
    status, text = asked(port, "/healthz")
    return status, json.loads(text) if text else {}


def figures(port):
    """Return the samples of /metrics by name and the value of their first varying label."""
    families = text_string_to_metric_families(asked(port, "/metrics")[1])
    return {
        (sample.name, sample.labels.get("reason")): sample.value for family in families for sample in family.samples
    }


def tensors_of(run):
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(workplace, tmp_path_factory):
    """The adapter of a run that nobody disturbs."""
    place = tmp_path_factory.mktemp("undisturbed") / "place"
    shutil.copytree(workplace, place, ignore=shutil.ignore_patterns("runs"))
    net = Machines(place, ALL_THREE)
    try:
        net.server("--quiet")
        for k, name in enumerate(NAMES):
            net.client(k, "--blocks", 2, "--name", name)
        assert net.end("server") == 0, net.all_said()
        return tensors_of(net.run)
    finally:
        net.close()


@pytest.fixture
def net(workplace, tmp_path):
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    made = Machines(tmp_path / "place", ALL_THREE)
    yield made
    made.close()


def check_logs(net):
    """Every line that anybody said is an object, and what happened is in fields."""
    said = {name: [json.loads(line) for line in net.said(name).splitlines()] for name in ("server", *NAMES)}
    assert all({"time", "level", "message"} <= entry.keys() for entries in said.values() for entry in entries)
    assert all(entry["name"] == name for name in NAMES for entry in said[name])
    of = {
        event: [(entry["name"], entry.get("reason")) for entry in said["server"] if entry.get("event") == event]
        for event in ("rejected", "key removed", "joined")
    }
    assert set(of["rejected"]) <= {("madrid", "lost")}  # if it was asked at that moment
    assert of["key removed"] == [("madrid", None)]
    assert of["joined"][2:3] == [("paris", None)]
    assert EngineError.exit_code in {entry.get("exit_code") for entry in said["berlin"]}


@pytest.mark.slow
def test_a_day(net, call, monkeypatch, undisturbed):
    keys, renewed, port = net.folder / "keys", net.folder / "renewed", free_port()
    said = ("--metrics", f"127.0.0.1:{port}", "--log-format", "json")

    def done(*words):
        code, out, err = call(net.folder, *words)
        assert code == 0, err
        return out

    def client(name, folder="keys"):
        words = ("--blocks", 2, "--ca", "both.crt", "--key", f"{folder}/{name}", "--log-format", "json")
        return net.client(NAMES.index(name), *words, name=name)

    def finished():
        return sum(entry["failed"] is None for entry in net.rounds())

    # Keys. The certificate will be renewed: clients get both authorities beforehand.
    for folder in ("keys", "renewed"):
        done("keys", "server", "--host", "127.0.0.1", "--out", folder)
    (net.folder / "both.crt").write_text((keys / "ca.crt").read_text() + (renewed / "ca.crt").read_text())
    for name in ("berlin", "madrid"):
        done("keys", "client", name, "--out", "keys")

    # It starts, and says so before it has loaded anything.
    net.server("--keys", "keys", *said)
    net.wait_for(lambda: health(port)[0] == 200, what="the first answer")
    client("berlin")
    client("madrid")
    net.wait_for(lambda: health(port)[1].get("connected") == 2, what="two clients")
    status, found = health(port)
    assert (status, found["phase"], found["clients"]) == (200, "waiting", 3)
    assert figures(port)["fedhello_clients_connected", None] == 2

    # A client is added, without a restart.
    done("keys", "client", "paris", "--out", "keys")
    client("paris")
    net.wait_for(lambda: finished() >= 2, what="two rounds")
    now = figures(port)
    assert now["fedhello_rounds", None] == ROUNDS and now["fedhello_round", None] >= 2
    assert now["fedhello_clients_connected", None] == now["fedhello_clients", None] == 3
    assert now["fedhello_received_bytes_total", None] > 0 and now["fedhello_disk_free_bytes", None] > 0
    assert now["fedhello_healthy", None] == 1 and now["process_resident_memory_bytes", None] > 10**7

    # A backup while it runs.
    assert "after" in done("backup", "runs/net", "net.tar")
    backed_up = finished()

    # A client is shut out, without a restart; the run says that it does not go on.
    (keys / "madrid.pub").unlink()
    net.wait_for(lambda: "a round needs 3" in (health(port)[1]["reason"] or ""), what="a complaint")  # after a minute
    assert health(port)[0] == 503
    assert figures(port)["fedhello_clients_connected", None] == 2
    assert figures(port)["fedhello_healthy", None] == 0
    net.started["madrid"].terminate()
    net.end("madrid")

    # It comes back with a new key, and the run goes on.
    done("keys", "client", "madrid", "--out", "renewed")
    shutil.copy(renewed / "madrid.pub", keys)
    client("madrid", "renewed")
    stood = finished()
    net.wait_for(lambda: finished() > stood, what="another round")
    assert health(port)[0] == 200

    # The machine of the server is lost. Restored elsewhere, with a new certificate and a new version.
    net.kill("server")
    shutil.rmtree(net.run)
    assert "restored" in done("restore", "net.tar", "runs/net")
    assert 2 <= finished() <= backed_up
    shutil.copy(keys / "berlin.pub", renewed)
    shutil.copy(keys / "paris.pub", renewed)
    newer = net.folder / "newer"
    (newer / "fedhello-99.0.dist-info").mkdir(parents=True)
    (newer / "fedhello-99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: fedhello\nVersion: 99.0\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(newer), *filter(None, [os.environ.get("PYTHONPATH")])]))
    net.wait_for(lambda: not net.left()[1], what="the end of the SuperLink")
    net.server("--keys", "renewed", *said)
    # Clients of the old version reach it by its new certificate, and say what to do.
    assert [net.end(name) for name in NAMES] == [EngineError.exit_code] * 3, net.all_said()
    assert "Install the same" in net.said("berlin")
    for name in NAMES:
        client(name, "renewed" if name == "madrid" else "keys")
    assert net.end("server") == 0, net.all_said()
    assert [net.end(name) for name in NAMES] == [0, 0, 0]

    summary = json.loads((net.run / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("finished", ROUNDS)
    assert [entry["round"] for entry in net.rounds() if entry["failed"] is None] == list(range(ROUNDS))
    assert tensors_of(net.run) == undisturbed  # to the last bit
    assert any("99.0" in note for note in summary["notes"])
    check_logs(net)


@pytest.mark.slow
def test_sigterm_ends_a_server_in_order_while_it_waits(net):
    """As systemd and containers end it."""
    port = free_port()
    net.server("--metrics", f"127.0.0.1:{port}", "--log-format", "json")
    net.wait_for(lambda: "listening" in net.said("server"), what="the server")
    net.started["server"].send_signal(signal.SIGTERM)
    assert net.end("server", 30) in (130, 143)
    net.wait_for(lambda: net.left() == ([], False), seconds=20, what="the end of all processes")
