import pytest

from fedhello.config.load import load_config
from fedhello.errors import ConfigError, DataError, ModelError
from fedhello.network.consent import Consent
from fedhello.network.options import ClientOptions
from fedhello.network.preparation import prepare_client
from fedhello.setup.prepare import prepare


@pytest.fixture
def encoded(monkeypatch):
    """The data sets that clients encode, in order."""
    from fedhello.network import preparation
    from fedhello.setup import prepare

    seen = []
    for module in (preparation, prepare):
        monkeypatch.setattr(
            module, "encode", lambda data, *rest, plain=module.encode: seen.append(data) or plain(data, *rest)
        )
    return seen


def test_a_client_trains_on_all_of_its_own_data_whatever_its_columns_are_called(place, told):
    (place / "mine.csv").write_text("body,kind\n" + "".join(f"pear number {i},fruit\n" for i in range(9)))
    options = ClientOptions("a", "mine.csv", model="tiny", consent=Consent(
        columns={"text": "body", "label": "kind"}, budget={"blocks": 1}))  # fmt: skip
    client = prepare_client(options, *told)
    assert len(client.data) == client.facts.samples == 9
    assert client.facts.classes == (0,)  # of two: a client may have samples of some classes only
    assert client.facts.as_budget().blocks == 1


def test_a_client_names_the_encoding_of_its_own_data_and_its_server_none(place, told, encoded):
    raw, labels = told
    raw["data"]["encoding"] = "cp437"  # of the server's data
    rows = "text,label\n" + "".join(f"poire brûlée {i},fruit\n" for i in range(9))
    (place / "mine.csv").write_bytes(rows.encode("cp1252"))
    with pytest.raises(DataError, match="--encoding cp1252"):
        prepare_client(ClientOptions("a", "mine.csv", model="tiny"), raw, labels)
    options = ClientOptions("a", "mine.csv", model="tiny", encoding="cp1252")
    assert ClientOptions.from_json(options.to_json()) == options
    prepare_client(options, raw, labels)
    assert encoded[0].inputs[2] == "poire brûlée 2"
    with pytest.raises(ConfigError, match=r"encoding: an encoding is one that Python knows.* \(found 'ansi'\)"):
        ClientOptions("a", "mine.csv", encoding="ansi")


def test_the_encoding_of_a_part_is_the_clients_if_it_names_one(place, told, encoded):
    raw, labels = told
    raw["data"]["encoding"] = "cp1252"
    text = (place / "texts.csv").read_text().replace("apple", "äpple")
    (place / "ours.csv").write_bytes(text.encode("cp1252"))
    (place / "mac.csv").write_bytes(text.encode("mac_roman"))
    prepare_client(ClientOptions("a", "ours.csv", part=0, model="tiny"), raw, labels)
    prepare_client(ClientOptions("a", "mac.csv", part=0, model="tiny", encoding="mac_roman"), raw, labels)
    ours, macs = encoded
    assert ours.inputs == macs.inputs and any("äpple" in text for text in ours.inputs)


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
    with pytest.raises(DataError, match=r"labels of the run, fruit, metal; .*line 3.*'metall'.*Did you mean metal"):
        prepare_client(ClientOptions("a", "mine.csv", model="tiny"), *told)


def test_a_client_takes_no_path_from_the_server(place, told):
    raw, labels = told
    with pytest.raises(ModelError, match="expected the model's folder"):
        prepare_client(ClientOptions("a", "texts.csv"), raw, labels)
    with pytest.raises(ConfigError, match=r"expected data \(--data\) with a part"):
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


def test_a_client_checks_what_holds_over_a_network_whatever_engine_a_server_names(told):
    raw, labels = told
    raw["run"]["engine"] = "local"
    raw["privacy"] |= {"epsilon": 8.0, "unit": "sample", "secure": False}
    raw["train"] |= {"clients_per_round": 3, "loss": "cross_entropy"}
    with pytest.raises(ConfigError, match="on other machines what clients send must be masked"):
        prepare_client(ClientOptions("a", "texts.csv", model="tiny"), raw, labels)
