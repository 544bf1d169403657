"""A run over a network, with workers in this process: the same code as with Flower, without its processes."""

import json
import shutil
import time
from pathlib import Path

import pytest
from machines import CONFIG
from safetensors.torch import load_file

from fedhello.config.load import load_config
from fedhello.errors import ClientsError, ConfigError, DataError, EngineError, ModelError, QuorumError, RunFolderError
from fedhello.network.admission import BACK_SECONDS, gather, with_tiers
from fedhello.network.client import ClientOptions, default_name, parse_bytes, prepare_client
from fedhello.network.registry import ClientRegistry
from fedhello.network.server import _check_folder, _invitation, play_over, served
from fedhello.network.superlink import ServerOptions
from fedhello.network.supervisor import MOST_CRASHES, Connection, _Supervisor, parse_server
from fedhello.network.worker import Worker
from fedhello.runs.folder import RunFolder
from fedhello.setup.prepare import load, prepare
from network import Network, remote_facts


@pytest.fixture
def place(workplace, tmp_path, monkeypatch):
    """A folder of one's own with the tiny model and data, which is the current one."""
    shutil.copytree(workplace, tmp_path / "place")
    (tmp_path / "place" / "net.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def config_of(place, *overrides):
    return served(load_config(place / "net.yaml", overrides))


def network_of(clients=3, **brought):
    network = Network()
    for k in range(clients):
        options = ClientOptions(f"part-{k:03d}", data="texts.csv", part=k, model="tiny", **brought)
        worker = Worker(lambda raw, labels, options=options: prepare_client(options, raw, labels), watched=False)
        network.connect(options.name, worker)
    return network


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def play_network(network, config):
    folder = RunFolder(config_folder(config))
    return folder, play_over(network, load(config), folder, [], lambda line: None)


def config_folder(config):
    return Path(config.run.out) / config.run.name


def test_a_run_over_a_network_is_that_of_one_process(place, call):
    folder, summary = play_network(network_of(), config_of(place))
    assert call(place, "run", "net.yaml", "run.name=here", "--quiet")[0] == 0
    here = json.loads((place / "runs" / "here" / "summary.json").read_text())
    ours, theirs = adapter_of(place / "runs" / "here"), adapter_of(folder.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6
    for key in ("final", "start", "bytes_down", "samples"):
        assert summary[key] == here[key], key
    assert summary["bytes_up"] == pytest.approx(here["bytes_up"], rel=0.01)  # every update states the id of its run
    assert [tier["blocks_trained"] for tier in summary["tiers"]] == [tier["blocks_trained"] for tier in here["tiers"]]
    described = json.loads((folder.path / "clients.json").read_text())["clients"]
    assert [entry["facts"]["name"] for entry in described] == ["part-000", "part-001", "part-002"]
    assert sum(entry["samples"] for entry in described) == sum(
        entry["samples"] for entry in json.loads((place / "runs" / "here" / "clients.json").read_text())["clients"]
    )


def test_clients_score_over_a_network_as_in_one_process(place, call):
    words = ["data.proxy=0", "method={name: fim-hla, scores: clients, refresh: 1, score_samples: 6}"]
    folder, summary = play_network(network_of(), config_of(place, *words))
    assert call(place, "run", "net.yaml", "run.name=here", "--quiet", *words)[0] == 0
    there, here = RunFolder(folder.path).rounds(), RunFolder(place / "runs" / "here").rounds()
    assert len(there) == summary["rounds"] > 0
    for a, b in zip(there, here, strict=True):
        assert a["scores"] == pytest.approx(b["scores"], rel=1e-5)
        assert a["scored"] is b["scored"] is True
        assert a["score_bytes_up"] == b["score_bytes_up"] > 0
        assert a["score_bytes_down"] == b["score_bytes_down"] > 0
        assert a["flags"] == []


def test_a_server_that_was_stopped_goes_on_with_the_same_clients_to_the_same_adapter(place):
    config = config_of(place, "train.rounds=3", "run.name=whole")
    whole, _ = play_network(network_of(), config)
    config = config_of(place, "train.rounds=3", "run.name=broken")
    network = network_of()

    def stop(reply):
        raise KeyboardInterrupt

    network.faults["part-001", "train"] = [None, stop]
    broken, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("interrupted", 1)
    assert {worker.ended for worker in network.workers.values()} == {None}  # they wait for the server to be back
    assert config_of(place, "run.name=broken").run.name == "broken"
    _, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("finished", 3)
    assert {worker.ended for worker in network.workers.values()} == {"finished"}
    ours, theirs = adapter_of(whole.path), adapter_of(broken.path)
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) <= 1e-6


def test_clients_of_a_run_that_failed_wait_for_the_server_to_be_back(place):
    config = config_of(place, "train.rounds=2", "train.retries=1")
    network = network_of()
    for name in network.workers:
        network.faults[name, "train"] = [lambda reply: {"error": "failed", "detail": "no"}]
    with pytest.raises(QuorumError):
        play_network(network, config)
    assert {worker.ended for worker in network.workers.values()} == {None}
    _, summary = play_network(network, config)
    assert (summary["status"], summary["rounds"]) == ("finished", 2)
    assert {worker.ended for worker in network.workers.values()} == {"finished"}


def test_a_client_that_is_back_before_its_dead_connection_ends_is_waited_for(place):
    config, said = config_of(place), []
    network = network_of()
    dead = network.connect("part-000 dead", network.workers["part-000"])
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)

    def wait(seconds):
        network.wait(seconds)
        if network.now > 5:
            network.node_of.pop("part-000 dead", None)

    both = sorted([dead, network.node_of["part-000"]])
    three = config.model_copy(update={"data": config.data.model_copy(update={"clients": 3})})
    network.node_of["part-000 dead"], network.node_of["part-000"] = both  # the dead one answered first
    del network.node_of["part-002"]  # else all would be there
    late = network.connect

    def join(seconds):
        wait(seconds)
        if network.now > 10 and "part-002" not in network.node_of:
            late("part-002", network.workers["part-002"])

    _, nodes, _ = gather(lobby, three, (), said.append, join)
    assert nodes[0] == network.node_of["part-000"]
    assert sum("connected already" in line for line in said) == 1


@pytest.mark.parametrize(
    "change", [{"widest": (2**31 - 1, 2**31 - 1)}, {"batches": ((4, 9),) * 99}, {"batches": ((4, 2**31 - 1),)}]
)
def test_a_client_that_speaks_of_more_than_its_samples_give_is_not_admitted(place, change):
    config, said = config_of(place), []
    network = network_of()

    def lie(reply):
        facts = json.loads(reply["facts"]) | change
        return {**reply, "facts": json.dumps(facts)}

    network.faults["part-001", "join"] = [lie]
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    soon = config.model_copy(update={"run": config.run.model_copy(update={"wait": 3.0})})
    with pytest.raises(ClientsError, match="2 joined"):
        gather(lobby, soon, (), said.append, network.wait)
    assert any("'part-001' cannot take part: expected at most" in line for line in said)


def test_a_run_that_goes_on_admits_nobody_else(place):
    config, said = config_of(place), []
    network = network_of()
    lobby = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    stranger = [remote_facts(0, 10)]
    with pytest.raises(Exception, match="expected 2 clients"):
        gather(lobby, config.model_copy(update={"run": config.run.model_copy(update={"wait": 5.0})}), stranger * 3,
               said.append, network.wait)  # fmt: skip
    assert sum("did not take part, with this data, from the start" in line for line in said) == 3


def test_budgets_become_tiers_in_the_order_of_ids(place):
    config = config_of(place)
    members = [
        remote_facts(0, 10).model_copy(update={"budget": budget})
        for budget in (type(remote_facts(0, 10).budget)(memory=m) for m in (9, 7, 9))
    ]
    tiers = with_tiers(config, members).clients.tiers
    assert [(tier.memory, round(tier.share, 3)) for tier in tiers] == [(9, 0.667), (7, 0.333)]


def test_clients_are_not_told_where_things_are_at_the_server(place):
    header, *rows = (place / "texts.csv").read_text().splitlines()
    (place / "held.csv").write_text("\n".join([header, *(f"other {row}" for row in rows)]))
    paths = [f"model.name={place}/tiny", f"data.test={place}/held.csv"]
    told = json.loads(_invitation(load(config_of(place, *paths)), "r")["config"])
    assert str(place) not in json.dumps(told)
    assert told["data"]["test"] == "./held.csv"
    assert (told["model"]["name"], told["data"]["name"]) == ("./tiny", "./texts.csv")
    assert "out" not in told["run"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("method.name=centralised", "needs all data in one place"),
        ("model.head=local", "head that the server can evaluate"),
        ("clients.dropout=0.5", "lost by themselves"),
    ],
)
def test_what_cannot_be_played_over_a_network_is_refused(place, override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        config_of(place, override)


def test_the_commands_for_one_machine_refuse_runs_of_many(place, call):
    code, _, err = call(place, "run", "net.yaml", "run.engine=flower")
    assert code == 2
    assert "fedhello server" in err


def test_a_finished_run_is_not_played_again_and_without_a_name_another_folder_is_taken(place):
    play_network(network_of(), config_of(place, "train.rounds=1"))
    with pytest.raises(RunFolderError, match=r"Give another run\.name"):
        _check_folder(RunFolder(place / "runs" / "net"))
    (place / "runs" / "net").rename(place / "runs" / "rgd-hla-seed0-flower")
    assert config_of(place, "run.name=null").run.name == "rgd-hla-seed0-flower-2"


@pytest.fixture
def told(place):
    """What a client is told of the run."""
    config = config_of(place)
    loaded = load(config)
    return json.loads(_invitation(loaded, "r")["config"]), list(loaded.data.label_names)


def test_a_client_trains_on_all_of_its_own_data_whatever_its_columns_are_called(place, told):
    (place / "mine.csv").write_text("body,kind\n" + "".join(f"pear number {i},fruit\n" for i in range(9)))
    options = ClientOptions("a", "mine.csv", model="tiny", columns={"text": "body", "label": "kind"},
                            budget={"blocks": 1})  # fmt: skip
    client = prepare_client(options, *told)
    assert len(client.data) == client.facts.samples == 9
    assert client.facts.classes == (0,)  # of two: a client may have samples of some classes only
    assert client.facts.as_budget().blocks == 1


def test_what_the_server_holds_out_does_not_concern_a_clients_own_data(place, told):
    raw, labels = told
    raw["data"] |= {"test": "held.csv", "held_out_samples": 5}
    client = prepare_client(ClientOptions("a", "texts.csv", model="tiny"), raw, labels)
    assert len(client.data) == 80


def test_a_client_without_a_budget_declares_free_memory(place, told):
    client = prepare_client(ClientOptions("a", "texts.csv", model="tiny"), *told)
    assert client.facts.budget.memory > 10**7
    assert client.facts.speed > 0


def test_a_label_that_the_federation_does_not_know_is_an_error_at_the_client(place, told):
    (place / "mine.csv").write_text("text,label\npear,fruit\nzinc,metall\n")
    with pytest.raises(
        DataError, match=r"labels of the federation, fruit, metal; .*line 3.*'metall'.*Did you mean metal"
    ):
        prepare_client(ClientOptions("a", "mine.csv", model="tiny"), *told)


def test_a_client_takes_no_path_from_the_server(place, told):
    raw, labels = told
    with pytest.raises(ModelError, match="expected --model"):
        prepare_client(ClientOptions("a", "texts.csv"), raw, labels)
    with pytest.raises(ConfigError, match="expected --data besides --part"):
        prepare_client(ClientOptions("a", part=0, model="tiny"), raw, labels)
    raw["data"]["test"] = "/etc/passwd"
    with pytest.raises(ConfigError, match="found names"):
        prepare_client(ClientOptions("a", "texts.csv", part=0, model="tiny"), raw, labels)


def test_a_part_is_what_a_run_on_one_machine_gives_to_that_client(place, told):
    session = prepare(load_config(place / "net.yaml"))
    client = prepare_client(ClientOptions("a", "texts.csv", part=1, model="tiny"), *told)
    assert client.facts.samples == session.federation.clients[1].samples
    assert client.facts.as_budget() == session.federation.clients[1].budget
    with pytest.raises(ConfigError, match="within 0 … 2"):
        prepare_client(ClientOptions("a", "texts.csv", part=3, model="tiny"), *told)


def test_a_client_that_cannot_take_part_says_so_to_the_server_and_ends(place, told):
    worker = Worker(lambda raw, labels: prepare_client(ClientOptions("a", "none.csv", model="tiny"), raw, labels))
    fields = _invitation(load(config_of(place)), "r")
    reply = worker.answer("join", fields)
    assert reply["error"] == "failed"
    assert isinstance(worker.failure, DataError)
    assert worker.answer("train", {})["error"] == "join first"
    assert worker.answer("dance", {})["error"] == "failed"


def test_versions_that_differ_do_not_go_together(place):
    worker = Worker(lambda raw, labels: None)
    fields = _invitation(load(config_of(place)), "r") | {"version": "9.9"}
    assert "Install the same" in worker.answer("join", fields)["detail"]


@pytest.mark.parametrize("text", ["", "host", "host:", ":8000", "host:0", "host:70000", "a:b:80", "http://host:80"])
def test_an_address_has_a_host_and_a_port(text):
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_server(text)
    assert parse_server("h.example:8000") == ("h.example", 8000)
    assert parse_server("[::1]:8000") == ("::1", 8000)


def test_options_are_checked_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="expected --data"):
        ClientOptions("a")
    with pytest.raises(ConfigError, match="expected --name"):
        ClientOptions("a b", "x.csv")
    with pytest.raises(ConfigError, match="expected bytes with a unit"):
        parse_bytes("four")
    assert parse_bytes("4GB") == 4 * 10**9
    with pytest.raises(ConfigError, match="expected --ca to name a file"):
        Connection("h", 1, ca=tmp_path / "ca.crt")
    (tmp_path / "key").touch()
    with pytest.raises(ConfigError, match="expected --ca besides --key"):
        Connection("h", 1, key=tmp_path / "key")
    with pytest.raises(ConfigError, match="fedhello keys server"):
        ServerOptions(keys=tmp_path)
    for name in ("ca.crt", "server.pem", "server.key"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="fedhello keys client"):
        ServerOptions(keys=tmp_path)


def test_a_name_stays_the_same(tmp_path):
    assert default_name("a.csv", None, None) == default_name("a.csv", None, None)
    assert default_name("a.csv", None, None) != default_name("b.csv", None, None)
    assert default_name("a.csv", None, tmp_path / "berlin") == "berlin"
    assert default_name(None, 7, None) == "part-007"


def test_the_server_listens_on_this_machine_alone_unless_told_otherwise():
    words = ServerOptions().superlink("secret")
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert ServerOptions(host="0.0.0.0").address.host == "127.0.0.1"
    assert "--memory" in ServerOptions().client_command()


def test_a_worker_that_ends_again_and_again_is_an_error(tmp_path):
    said = []
    watcher = _Supervisor(Connection("h", 1), ClientOptions("a", "x.csv"), said.append, tmp_path, tmp_path / "log")
    for _ in range(MOST_CRASHES):
        watcher._began = time.monotonic()
        watcher._count_crash("by signal SIGKILL")
    watcher._began = time.monotonic()
    with pytest.raises(EngineError, match="5 times"):
        watcher._count_crash("by signal SIGKILL")
    watcher._began = time.monotonic() - 1000  # it had trained for long
    watcher._count_crash("by signal SIGKILL")
    assert len(said) == MOST_CRASHES + 1
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_a_run_that_goes_on_does_not_wait_for_clients_beyond_its_quorum_for_ever(place):
    config, said = config_of(place), []
    network = network_of(clients=2)
    first = ClientRegistry(network, _invitation(load(config), "r"), 2, network.clock)
    two = config.model_copy(update={"data": config.data.model_copy(update={"clients": 2})})
    members, _, _ = gather(first, two, (), said.append, network.wait)
    roster = [*members, remote_facts(2, 10)]  # the third does not come back
    lobby = ClientRegistry(network, _invitation(load(config), "s"), 2, network.clock)
    begin = network.now
    found, nodes, _ = gather(lobby, config, roster, said.append, network.wait)
    assert [member.name for member in found] == ["part-000", "part-001", "client-2"]
    assert sorted(nodes) == [0, 1]
    assert BACK_SECONDS <= network.now - begin < BACK_SECONDS + 2
