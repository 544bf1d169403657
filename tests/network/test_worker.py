from fedhello.errors import DataError
from fedhello.network.client import ClientOptions, prepare_client
from fedhello.network.server import _invitation
from fedhello.network.worker import Worker
from fedhello.setup.prepare import load
from network import config_of


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
