"""Methods from outside the package: what is entered, what is found, and what is never run."""

import sys
from types import SimpleNamespace

import pytest

import fedhello as fh
from fedhello.aggregation.layerwise import add_layerwise, average_layerwise
from fedhello.plugins import find_method, method_or_stand_in
from fedhello.strategy import options_of
from fedhello.types import Federation

OWN = '''
import fedhello as fh
from fedhello.allocation.planner import fit

def topmost(context: fh.AllocationContext) -> fh.Allocation:
    """Train the last block, whatever the budget."""
    return fit(context, [0.0] * (context.federation.num_blocks - 1) + [1.0])

mine = fh.Method(name="mine", summary="the last block alone", paper="-", allocate=topmost)
'''


def test_a_method_from_a_file_is_known_by_name(place, call):
    (place / "own.py").write_text(OWN)
    try:
        run = fh.run("tiny.yaml", {"run.name": "g", "method": {"name": "own:mine"}})
        assert {client.blocks for record in run.rounds for client in record.report.clients} == {(2,)}
        assert fh.load_run(run.path).config.method.name == "own:mine"
        code, _, err = call(place, "run", "tiny.yaml", "method.name=own:mine", "run.name=h", "--quiet")
        assert code == 0, err
        found = fh.compare("tiny.yaml", methods=["own:mine", "full"], seeds=[0], out="side-by-side", baselines=False)
        assert list(found.runs) == ["own-mine", "full"]
        for name, sentence in [("own:other", "no attribute 'other'"), ("none:mine", "No module named 'none'"),
                               ("own:topmost", "found a function"), ("nobody", "expected method.name")]:  # fmt: skip
            with pytest.raises(fh.ConfigError, match=sentence):
                fh.load_config("tiny.yaml", {"method": {"name": name}})
    finally:
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_reading_somebodys_run_runs_none_of_their_code(place, call):
    signature = "(context: fh.AllocationContext"
    (place / "own.py").write_text(OWN.replace(f"{signature})", f"{signature}, *, deep: int = 3)"))
    try:
        run = fh.run("tiny.yaml", {"run.name": "g", "method": {"name": "own:mine", "deep": 4}})
        final = run.summary.final
        (place / "own.py").write_text("open('was-here', 'w').close()\nraise ValueError('no')\n")
        fh.METHODS.pop("own:mine")
        sys.modules.pop("own")
        read = fh.load_run(run.path)
        assert read.config.method.options["deep"] == 4
        assert read.predict(["apple number 1"])[0].label
        assert read.evaluate().test.accuracy == final
        assert call(place, "report", run.path)[0] == 0
        assert not (place / "was-here").exists()
        with pytest.raises(fh.ConfigError, match="ValueError: no"):
            fh.resume(run.path, {"run.keep": 1})
    finally:
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_a_name_that_came_over_a_network_is_never_imported(place):
    from fedhello.config.load import parse_config
    from fedhello.network.server import served

    (place / "evil.py").write_text("open('was-here', 'w').close()\nmine = 1\n")
    with pytest.raises(fh.ConfigError, match=r"expected method\.name"):
        parse_config({"method": {"name": "evil:mine"}})
    assert not (place / "was-here").exists()
    local = "def local():\n    return {}\nlocally = fh.Method('l', '-', '-', topmost, local=local)\n"
    (place / "own.py").write_text(OWN + local)
    try:
        assert served(fh.load_config("tiny.yaml", {"method": {"name": "own:mine"}})).method.name == "own:mine"
        with pytest.raises(fh.ConfigError, match="clients import no code that a server names; own:locally has local="):
            served(fh.load_config("tiny.yaml", {"method": {"name": "own:locally"}}))
    finally:
        fh.METHODS.pop("own:locally", None)
        fh.METHODS.pop("own:mine", None)
        sys.modules.pop("own", None)


def test_methods_of_ones_own_never_take_the_name_of_another():
    with pytest.raises(fh.ConfigError, match="expected a new name"):
        fh.register_method(fh.Method("full", "other", "-", fh.METHODS["gd-hla"].allocate))
    assert fh.register_method(fh.METHODS["full"]) is fh.METHODS["full"]


@pytest.fixture
def table():
    """The table of methods, which is as it was afterwards."""
    before = dict(fh.METHODS)
    yield fh.METHODS
    fh.METHODS.clear()
    fh.METHODS.update(before)


def test_a_method_is_entered_under_its_name_and_another_of_ones_own_takes_its_place(table):
    one, other = (fh.Method("mine", summary, "-", table["full"].allocate) for summary in ("one", "other"))
    assert fh.register_method(one) is table["mine"] is one
    assert fh.register_method(other) is table["mine"] is other
    find_method("mine")
    assert method_or_stand_in("mine", {}) is other
    with pytest.raises(fh.ConfigError, match=r"expected a fedhello\.Method at odd; found a SimpleNamespace"):
        fh.register_method(SimpleNamespace(name="odd"))


def test_what_stands_in_takes_the_options_of_the_folder_and_runs_no_rule(table):
    before = dict(table)
    found = method_or_stand_in("gone:mine", {"deep": 4})
    assert table == before
    assert (found.name, found.summary) == ("gone:mine", "its code is not imported")
    bound = found.bind(deep=5)
    federation = Federation((), (fh.Budget(blocks=1),), num_blocks=3, clients_per_round=1, seed=0)
    assert bound.allocate(SimpleNamespace(federation=federation)).blocks == (0, 1, 2)
    with pytest.raises(fh.ConfigError, match="expected the aggregator of gone:mine; its code is not imported"):
        bound.aggregate(None, ())
    with pytest.raises(ValueError, match="depth"):
        found.bind(depth=5)


def test_what_stands_in_averages_layerwise_where_the_folder_has_its_options():
    options = {p.name: p.default for p in options_of(add_layerwise)}
    found = method_or_stand_in("gone:mine", {"deep": 4, **options})
    assert found.aggregate is average_layerwise
    assert {p.name for p in options_of(found.allocate)} == {"deep"}
