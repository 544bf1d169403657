"""Files of rounds, and tracking tools as callbacks."""

import csv
import json
import logging

import pytest
from handmade import begun, played, session, trained

from fedhello.errors import MissingExtraError
from fedhello.runs import recorders as module
from fedhello.runs import tracking
from fedhello.runs.recorders import CsvFile, JsonLinesFile, MLflow, TensorBoard, WandB
from fedhello.runs.tracking import Sink, round_metrics

ROUNDS = [
    played(0, [trained(0)], test=None),
    played(1, [trained(0)], test=0.75),
    played(2, test=None, failed="too few"),
]


def start(records=()):
    found = begun()
    return type(found)(found.state, None, found.validation, found.test, tuple(records))


def recorded(callback, rounds, earlier=()):
    callback.on_start(session(), start(earlier))
    for record in rounds:
        assert callback.on_round(found_state := None, record) is found_state
    return callback.path


def json_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def csv_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_round_is_an_object_with_the_numbers_that_tools_see_and_failed_attempts_are_none(tmp_path):
    rows = json_rows(recorded(JsonLinesFile(tmp_path / "new" / "rounds.jsonl"), ROUNDS))
    assert rows == [{"round": t + 1, **round_metrics(ROUNDS[t])} for t in (0, 1)]
    assert rows[1]["test/accuracy"] == 0.75
    assert "test/accuracy" not in rows[0]


def test_a_column_that_comes_later_is_empty_in_the_lines_before(tmp_path):
    first, second = csv_rows(recorded(CsvFile(str(tmp_path / "rounds.csv")), ROUNDS))
    assert first.keys() == second.keys()
    assert (first["round"], second["round"]) == ("1", "2")
    assert (first["test/accuracy"], second["test/accuracy"]) == ("", "0.75")
    assert first["bytes_up"] == "100.0"


@pytest.mark.parametrize(("kind", "read"), [(JsonLinesFile, json_rows), (CsvFile, csv_rows)])
def test_the_lines_of_a_run_that_goes_on_are_kept_and_those_of_another_run_are_not(tmp_path, kind, read):
    file = kind(tmp_path / "rounds")
    recorded(file, ROUNDS)
    again = [row["round"] for row in read(recorded(kind(file.path), [played(2)], earlier=[*ROUNDS[:2], ROUNDS[2]]))]
    assert list(map(int, again)) == [1, 2, 3]
    assert [int(row["round"]) for row in read(recorded(file, ROUNDS[:1]))] == [1]  # one object may serve two runs


@pytest.mark.parametrize("tool", [TensorBoard, WandB, MLflow])
def test_a_tool_is_handed_the_whole_run_and_where_it_shows_it_is_logged(tmp_path, monkeypatch, caplog, tool):
    got = []

    def open_it(folder, config):
        got.append((folder, config))
        return Sink("somewhere", lambda done, metrics: got.append((done, metrics["test/accuracy"])), got.append)

    monkeypatch.setattr(module, "check_installed", lambda names: got.append(names))
    monkeypatch.setattr(tracking, "SINKS", {tool.name: open_it})
    callback = tool(str(tmp_path))
    with caplog.at_level(logging.INFO, logger="fedhello"):
        callback.on_start(session(config={"run": {}}), start())
    callback.on_round(None, ROUNDS[1])
    callback.on_round(None, ROUNDS[2])
    callback.on_end("the summary")
    assert got == [[tool.name], (tmp_path, {"run": {}}), (0, 0.25), (2, 0.75), "the summary"]
    assert caplog.messages == [f"tracking with {tool.name}: somewhere"]


@pytest.mark.parametrize("tool", [TensorBoard, WandB, MLflow])
def test_a_tool_that_is_not_installed_is_refused_at_once(monkeypatch, tmp_path, tool):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'fedhello\[{tool.name}\]'"):
        tool(tmp_path)
