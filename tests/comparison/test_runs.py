"""Several methods with several seeds: real runs of a tiny model, and what is decided before any run."""

import csv
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedhello.comparison import runs as compare
from fedhello.comparison.asked import asked_methods, asked_seeds
from fedhello.comparison.runs import load_shared, plan_runs, translated
from fedhello.config.choices import with_choices
from fedhello.config.diff import OWN_KEYS, differing
from fedhello.config.load import load_config
from fedhello.config.stored import stored_config
from fedhello.errors import ConfigError, DataError
from fedhello.methods import METHODS
from fedhello.results.comparison import METHOD_KEYS
from fedhello.runs.folder import RunFolder

CONFIG, DATA, FOLDER, INTERRUPTED = 2, 3, 5, 130

METHODS_ASKED = "fed-hello,rgd-hla:pattern=triangle"
ASKED = ("compare", "tiny.yaml", "--methods", METHODS_ASKED, "--seeds", "0,1", "--out", "cmp", "--no-baselines")
RUNS = ["fed-hello-seed0", "fed-hello-seed1", "rgd-hla-pattern-triangle-seed0", "rgd-hla-pattern-triangle-seed1"]


@pytest.fixture(scope="module")
def compared(workplace, call):
    """The folder of a comparison of two methods with two seeds, and what was said."""
    code, out, err = call(workplace, *ASKED)
    assert (code, err) == (0, "")
    return workplace / "cmp", out


@pytest.fixture
def copied(compared, tmp_path):
    """A place with a copy of that comparison, which a test may spoil."""
    shutil.copytree(compared[0].parent, tmp_path, dirs_exist_ok=True)
    return tmp_path


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed(before, after):
    """Return the runs with a file that is not what it was."""
    files = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    return {path.parts[1] for path in files if path.parts[0] == "runs"}


# real runs


def test_every_run_is_an_ordinary_one(compared):
    folder, out = compared
    assert sorted(path.name for path in (folder / "runs").iterdir()) == RUNS
    for name in RUNS:
        run = RunFolder(folder / "runs" / name)
        assert {"config.yaml", "rounds.jsonl", "summary.json", "adapter", "log.txt", "report.html"} <= {
            path.name for path in run.path.iterdir()
        }
        assert run.summary().status == "finished"
        assert f"{stored_config(run.path).method.name}-" in name
        assert name.endswith(f"seed{run.summary().seed}")
    assert stored_config(RunFolder(folder / "runs" / RUNS[2]).path).method.options["pattern"] == "triangle"
    assert "run 4 of 4: rgd-hla-pattern-triangle seed 1: test accuracy" in out
    assert "kept" not in out


def test_the_results_are_those_of_the_runs(compared):
    folder, _ = compared
    rows = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [f"{row['method']}-seed{row['seed']}" for row in rows] == RUNS
    for row, name in zip(rows, RUNS, strict=True):
        summary = RunFolder(folder / "runs" / name).summary().to_dict()
        for key in ("start", "final", "mean_last_5", "best_on_validation", "bytes_up", "bytes_down", "wall_seconds"):
            assert float(row[key]) == summary[key]
        assert [float(row[f"peak_bytes_tier_{g}"]) for g in (0, 1)] == [
            tier["measured_peak_bytes"] for tier in summary["tiers"]
        ]
    assert (folder / "report.html").is_file()


def test_methods_share_partition_start_and_invited_clients_of_a_seed(compared):
    folder, _ = compared
    runs = {name: RunFolder(folder / "runs" / name) for name in RUNS}

    def shared(name):
        run = runs[name]
        invited = [[client.client for client in record.report.clients] for record in run.rounds()]
        return (run.path / "clients.json").read_text(), run.summary().start, invited

    assert shared(RUNS[0]) == shared(RUNS[2])
    assert shared(RUNS[1]) == shared(RUNS[3])
    assert shared(RUNS[0]) != shared(RUNS[1])


def test_a_second_call_keeps_every_run_and_says_so(copied, call):
    before = content(copied / "cmp")
    code, out, _ = call(copied, *ASKED)
    assert code == 0
    assert out.count("kept from before") == 4
    assert content(copied / "cmp") == before  # the tables and pictures too: the same runs give the same files


def test_an_unfinished_run_alone_is_made_anew_and_gives_the_same_adapter(copied, call):
    before = content(copied / "cmp")
    (copied / "cmp" / "runs" / RUNS[1] / "summary.json").unlink()
    code, out, _ = call(copied, *ASKED)
    after = content(copied / "cmp")
    assert code == 0
    assert "run 3 of 4: fed-hello seed 1 had not finished and is started again" in out
    assert out.count("kept from before") == 3
    assert changed(before, after) == {RUNS[1]}  # its times differ
    assert {path for path in before if "adapter" in path.parts and before[path] != after[path]} == set()


def test_a_finished_run_of_another_configuration_is_an_error_that_says_what_differs(copied, call):
    before = content(copied)
    code, out, err = call(copied, *ASKED, "train.lr=0.5", "train.rounds=3")
    assert (code, out) == (FOLDER, "")
    assert "train.rounds is 2 there and 3 here; train.lr is 0.01 there and 0.5 here" in err
    assert "Give another out" in err
    assert err.count("\n") == 1
    assert content(copied) == before


def test_something_else_in_a_runs_place_is_left_alone(copied, call):
    shutil.rmtree(copied / "cmp" / "runs" / RUNS[0])
    (copied / "cmp" / "runs" / RUNS[0]).mkdir()
    (copied / "cmp" / "runs" / RUNS[0] / "thesis.txt").write_text("mine")
    code, _, err = call(copied, *ASKED)
    assert code == FOLDER
    assert "found something else" in err
    assert (copied / "cmp" / "runs" / RUNS[0] / "thesis.txt").read_text() == "mine"


def test_json_quiet_reference_and_target(copied, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)  # pictures take the most time here
    _, out, err = call(copied, *ASKED, "--json", "--reference", "rgd-hla:pattern=triangle", "--target", "0.3")
    found = json.loads(out)
    assert found["labels"] == ["fed-hello", "rgd-hla-pattern-triangle"]
    assert found["reference"] == "rgd-hla-pattern-triangle"
    assert (found["target"], found["target_given"]) == (0.3, True)
    assert err.startswith("note: no pictures")
    assert call(copied, *ASKED, "--quiet") == (0, "", err)


def test_a_run_that_fails_is_named_and_the_others_stay(copied, call, monkeypatch):
    def failing(config, given):
        raise DataError("expected a file; found none")

    monkeypatch.setattr(compare, "prepare", failing)
    (copied / "cmp" / "runs" / RUNS[3] / "summary.json").unlink()
    before = content(copied)
    code, out, err = call(copied, *ASKED)
    assert code == DATA
    assert err == "error: rgd-hla-pattern-triangle seed 1: expected a file; found none\n"
    assert out.count("kept from before") == 3
    assert content(copied) == before  # what was unfinished is removed only once its successor is about to start


def test_an_interrupted_run_ends_the_comparison_with_130(copied, call, monkeypatch):
    def interrupted(session, folder, callbacks):
        folder.begin(session)
        return SimpleNamespace(status="interrupted", rounds=0, ended=False)

    monkeypatch.setattr(compare, "run_session", interrupted)
    (copied / "cmp" / "runs" / RUNS[1] / "summary.json").unlink()
    code, out, _ = call(copied, *ASKED)
    assert code == INTERRUPTED
    assert "run 3 of 4: fed-hello seed 1 was interrupted" in out
    assert "run 4" not in out


# what is decided before


def plan(base, methods, seeds="0"):
    return plan_runs(base, asked_methods(methods), asked_seeds(seeds), Path("absent"))


def test_options_of_the_configuration_count_for_its_method_only():
    base = load_config(None, ["method.name=gd-hla", "method.pattern=triangle", "method.weighting=clients"])
    planned, notes = plan(base, "gd-hla,gd-hla:pattern=uniform,rgd-hla")
    options = {run.label: run.config.method.options for run in planned}
    assert (options["gd-hla"]["pattern"], options["gd-hla"]["weighting"]) == ("triangle", "clients")
    assert options["gd-hla-pattern-uniform"] == options["gd-hla"] | {"pattern": "uniform"}
    defaults = METHODS["rgd-hla"].options().model_dump()
    assert options["rgd-hla"] == defaults
    assert notes == []


def test_options_that_count_for_no_method_are_noted():
    _, (note,) = plan(load_config(None, ["method.pattern=triangle"]), "gd-hla,rgd-hla")
    assert note == "the configuration's method.pattern is of fed-hello, not compared here"
    assert plan(load_config(None, ["parity=published"]), "gd-hla")[1] == []  # set by parity, not by somebody


def test_parity_holds_for_every_method():
    planned, _ = plan(load_config(None, ["parity=published"]), "fed-hello,fim-hla,gd-hla")
    assert [run.config.method.options.get("persist") for run in planned] == [False, None, None]
    assert {run.config.method.options["weighting"] for run in planned} == {"clients"}


def test_runs_differ_in_method_seed_and_place_only():
    base = load_config(None, ["train.rounds=7"])
    planned, _ = plan(base, "fed-hello,gd-hla", "4,2")
    assert [run.title for run in planned] == ["fed-hello seed 4", "gd-hla seed 4", "fed-hello seed 2", "gd-hla seed 2"]
    for run in planned:
        assert run.before == "new"
        assert run.config.model_copy(update={"method": base.method, "run": base.run}) == base


@pytest.mark.parametrize(
    ("count", "of", "full", "expected"),
    [(2, 6, 8, 3), (4, 6, 8, 5), (6, 6, 8, 8), (3, 8, 6, 2), (8, 8, 12, 12), (1, 12, 8, 1), (0, 12, 8, 1)],
)
def test_a_share_of_blocks_is_the_same_share_of_the_rank(count, of, full, expected):
    assert translated(count, of, full) == expected


@pytest.fixture
def twelve_blocks(monkeypatch):
    """A model of 12 blocks, without loading one."""
    monkeypatch.setattr(compare, "_block_count", lambda base, given: 12)


def test_blocks_become_ranks_for_methods_that_allocate_ranks(twelve_blocks):
    base = load_shared(None, ["clients.tiers=[{share: 1/2, blocks: 3, upload: 1MB}, {share: 1/2, memory: 1GB}]"])
    planned, (note,) = plan(base, "fed-hello,hetlora,full")
    tiers = {run.label: run.config.clients.tiers for run in planned}
    assert tiers["fed-hello"] == tiers["full"] == base.clients.tiers
    first, second = tiers["hetlora"]
    assert (first.blocks, first.rank, first.upload) == (None, 2, 1_000_000)  # 3 of 12 blocks: rank 2 of 8
    assert second == base.clients.tiers[1]
    assert note == (
        "hetlora allocates rank, so tier 0 gets rank 2 of 8 for blocks 3 of 12: about as many trained values"
    )


def test_ranks_become_blocks_for_methods_that_allocate_blocks(twelve_blocks):
    base = load_shared(None, ["clients.tiers=[{share: 1/2, rank: 2}, {share: 1/2, rank: 8, blocks: 5}]"])
    planned, notes = plan(base, "fed-hello,hetlora")
    tiers = {run.label: run.config.clients.tiers for run in planned}
    assert [(tier.blocks, tier.rank) for tier in tiers["fed-hello"]] == [(3, None), (5, 8)]
    assert [(tier.blocks, tier.rank) for tier in tiers["hetlora"]] == [(None, 2), (5, 8)]
    assert len(notes) == 1


def test_more_blocks_than_the_model_has_are_not_translated(twelve_blocks):
    base = load_shared(None, ["clients.tiers=[{share: 1, blocks: 13}]"])
    with pytest.raises(ConfigError, match=r"clients\.tiers\.0\.blocks to be at most 12, .*; found 13"):
        plan(base, "hetlora")


def test_the_configurations_own_method_and_tiers_are_still_checked():
    with pytest.raises(ConfigError, match=r"method \(gd-hla\)\.pattern"):
        load_shared(None, ["method.name=gd-hla", "method.pattern=circle"])
    with pytest.raises(ConfigError, match=r"clients\.tiers"):
        load_shared(None, ["clients.tiers=[{share: 1/2, blocks: 1}]"])
    base = load_shared(None, ["method.name=gd-hla", "method.pattern=triangle", "train.rounds=3"])
    words = ["method.name=gd-hla", "method.pattern=triangle", "train.rounds=3"]
    assert base == load_config(None, [*words, "train.evaluate_every=1"])


def test_a_speed_that_each_run_would_measure_anew_is_refused():
    base = load_config(None, ["clients.tiers=[{share: 1, seconds: 2}]"])
    with pytest.raises(ConfigError, match=r"expected a speed with clients\.tiers\.0\.seconds"):
        plan(base, "fed-hello,gd-hla")


# bad input


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Missing option '--methods'"),
        (["--methods", "fed-helo"], "found 'fed-helo'. Did you mean fed-hello?"),
        (["--methods", ""], "with an empty entry"),
        (["--methods", "gd-hla,,rgd-hla"], "with an empty entry"),
        (["--methods", "gd-hla,gd-hla"], "expected every method once"),
        (["--methods", "gd-hla,gd-hla:pattern=bottleneck"], "are the same with all options filled in"),
        (["--methods", "gd-hla:patern=triangle"], "unknown key method (gd-hla).patern. Did you mean pattern?"),
        (["--methods", "gd-hla:pattern=circle"], "method (gd-hla).pattern"),
        (["--methods", "gd-hla:triangle"], "expected a method's options such as gd-hla:pattern=triangle"),
        (["--methods", "gd-hla", "--seeds", "0,0"], "expected every seed once; found 0 more than once"),
        (["--methods", "gd-hla", "--seeds", "-1"], "found '-1'"),
        (["--methods", "gd-hla", "--seeds", "one"], "found 'one'"),
        (["--methods", "gd-hla", "--seeds", ""], "with an empty entry"),
        (["--methods", "gd-hla", "--target", "80"], "expected the target to be an accuracy above 0 and at most 1"),
        (["--methods", "gd-hla", "--target", "nan"], "expected the target to be an accuracy above 0 and at most 1"),
        (
            ["--methods", "gd-hla", "--reference", "fed-hello"],
            "expected the reference to be one of head-only, server-only, gd-hla",
        ),
        (["--methods", "gd-hla", "train.round=3"], "unknown key train.round"),
        (["--methods", "gd-hla", "a.yaml", "b.yaml"], "expected one configuration file; found 2"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(call, tmp_path, words, sentence):
    code, out, err = call(tmp_path, "compare", *words)
    assert (code, out) == (CONFIG, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_holds_something_else(call, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.csv").write_text("my own")
    code, _, err = call(tmp_path, "compare", "--methods", "gd-hla", "--out", "mine")
    assert code == FOLDER
    assert "mine has results.csv but no comparison.json" in err
    assert (tmp_path / "mine" / "results.csv").read_text() == "my own"


# learning rates of their own, baselines, and two at once


def test_two_comparisons_in_one_folder_at_once_are_one_too_many(copied, call):
    # Another opening of the file holds it, as another process would.
    with RunFolder(copied / "cmp").locked():
        before = content(copied)
        code, _, err = call(copied, *ASKED)
        assert code == FOLDER
        assert err.startswith("error: expected nobody else to write to cmp; process ")
        assert err.count("\n") == 1
        assert content(copied) == before


def test_what_some_methods_do_not_have_keeps_none_from_being_compared():
    """A run's own configuration says true where head-only has no head that follows."""
    base = load_shared(None, ["model.drift_compensation=true", "train.selection=validation"])
    configs = [with_choices(one.config) for one in plan(base, "head-only,local-only,rgd-hla")[0]]
    assert [config.model.drift_compensation for config in configs] == [False, False, True]
    differences = differing(configs, (*OWN_KEYS, *METHOD_KEYS))
    assert not differences, "so that nothing but the methods differs, learning rates included"
