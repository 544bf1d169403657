"""What a command takes is what its function of the library takes, and the other way round."""

import inspect

import pytest

import fedhello as fh
from fedhello.cli import inventory, network, operations, results, run, watching
from fedhello.cli.main import COMMANDS

OBJECTS = {"self", "session", "model", "processor", "data", "validation", "test", "method", "objects", "callbacks"}
"""What only a program has: no words can hand them over."""

SHOWN = {"as_json", "quiet", "console", "log_format"}
"""Where a result goes, and in which form."""

FOLLOWED = {"watch": {"callbacks"}, "metrics": {"callbacks"}}
"""Ways to follow a run, which a program does by callbacks."""

CONFIG = {"words": {"config", "overrides"}}
COLUMNS = {name: {"columns"} for name in ("text", "label", "image", "prompt", "response")}
CONSENT = {
    name: {"consent"}
    for name in (
        "labels",
        "epochs",
        "download",
        "tasks",
        "models",
        "statistics",
        "least_per_class",
        "scores",
        "secure",
        "epsilon",
        "ledger",
    )
}
LIMITS = {name: {"budget"} for name in ("memory", "upload", "seconds", "blocks", "rank")}

SAME = [
    # To try is to plan, and to go on is to resume.
    (run.run, [fh.run], CONFIG | FOLLOWED | {"dry_run": set(), "go_on": set()}, OBJECTS),
    (run.resume, [fh.resume], FOLLOWED | {"run": {"folder"}}, OBJECTS),
    (run.init, [fh.init], {"name": {"data"}}, set()),
    (
        run.plan,
        [fh.prepare, fh.plan, fh.Plan.write_picture, fh.Plan.write_page],
        CONFIG | {"picture": {"file"}, "page": {"file"}},
        OBJECTS,
    ),
    (run.compare, [fh.compare], CONFIG | {"no_baselines": {"baselines"}, "tune": {"rates"}}, OBJECTS),
    (
        results.evaluate,
        [fh.TrainedRun.evaluate],
        COLUMNS | {"run": set(), "per_class": set(), "per_client": set()},  # what is shown of the scores
        {"self"},
    ),
    (
        results.predict,
        [fh.TrainedRun.predict, fh.TrainedRun.predict_file],
        COLUMNS | {"run": set(), "texts": {"inputs"}, "pair": {"pairs"}},
        {"self", "told", "json_lines"},
    ),
    (inventory.models, [fh.model_path], {"path": {"name"}}, set()),
    (results.export, [fh.TrainedRun.export], {"run": set()}, {"self"}),
    (results.forget, [fh.TrainedRun.forget], {"run": set(), "client": {"clients"}}, {"self"}),
    (results.clients, [], {"run": set()}, set()),
    (
        results.report,
        [fh.write_report, fh.load_comparison, fh.write_comparison],
        {"runs": {"run", "folders", "comparison"}},
        set(),
    ),
    (watching.status, [fh.list_runs, fh.run_overview], {"run": {"folder"}}, set()),
    (operations.backup, [fh.backup], {}, set()),
    (operations.restore, [fh.restore], {}, set()),
    (network.server, [fh.serve], CONFIG | FOLLOWED, {"callbacks"}),
    (network.client, [fh.join], COLUMNS | LIMITS | CONSENT, set()),
    (network.server_keys, [fh.make_server_keys], {"host": {"hosts"}}, set()),
    (network.client_key, [fh.make_client_key], {}, set()),
]  # fmt: skip


def names(function):
    return set(inspect.signature(function).parameters)


@pytest.mark.parametrize(("command", "functions", "otherwise", "objects"), SAME, ids=[row[0].__name__ for row in SAME])
def test_neither_has_an_option_that_the_other_lacks(command, functions, otherwise, objects):
    asked = set().union(*(otherwise.get(name, {name}) for name in names(command) - SHOWN))
    assert asked - objects == set().union(*map(names, functions)) - SHOWN - objects


def test_every_command_is_compared_with_its_function():
    listed = {row[0].__name__ for row in SAME} | {"methods", "doctor"}  # these take nothing
    listed.add("watch")  # a page of a process of its own, which the library has no function for
    assert {command.__name__ for command in COMMANDS} <= listed
