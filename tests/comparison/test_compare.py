import io

import pytest
from rich.console import Console

from fedhello.comparison import compare as module
from fedhello.comparison.compare import compare, comparison_folder, shared_config
from fedhello.errors import ConfigError, RunFolderError
from fedhello.methods import METHODS


@pytest.fixture
def asked(monkeypatch):
    """What would be compared; every run counts as interrupted."""
    contests = []
    monkeypatch.setattr(module.Contest, "make", lambda contest, *_, **__: contests.append(contest))
    return contests


def test_methods_are_words_or_a_list_and_baselines_come_first(asked, tmp_path):
    for methods in ("gd-hla,rgd-hla", ["gd-hla", "rgd-hla"]):
        assert compare(None, methods=methods, seeds=range(2), out=tmp_path) is None, "it was interrupted"
    labels = [[method.label for method in contest.methods] for contest in asked]
    assert labels == [["head-only", "server-only", "gd-hla", "rgd-hla"]] * 2
    assert [contest.seeds for contest in asked] == [[0, 1]] * 2
    compare(None, methods=METHODS["gd-hla"], seeds=0, out=tmp_path, baselines=False)  # one of each
    assert [method.label for method in asked[-1].methods] == ["gd-hla"]
    assert asked[-1].seeds == [0]


def test_overrides_hold_for_all_runs_and_the_folder_is_beside_them(asked, tmp_path):
    compare(None, {"run.out": tmp_path / "runs", "train.rounds": 3}, methods="gd-hla", seeds=[0], baselines=False)
    (contest,) = asked
    assert (contest.base.train.rounds, contest.out) == (3, tmp_path / "runs" / "comparison")
    assert comparison_folder(shared_config(None, {"run.out": "here"})).parts == ("here", "comparison")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"target": 1.5}, "target"),
        ({"reference": "flora"}, "flora"),
        ({"rates": [1e-3]}, "at least 5 different learning rates"),
        ({"seeds": [0, 0]}, "every seed once"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(how, sentence, asked, tmp_path):
    with pytest.raises(ConfigError, match=sentence):
        compare(None, methods="gd-hla", **{"seeds": [0], "out": tmp_path, **how})
    assert asked == []


def test_a_folder_that_holds_something_else_is_left_alone(asked, tmp_path):
    (tmp_path / "results.csv").write_text("my own")
    with pytest.raises(RunFolderError, match=r"has results\.csv but no comparison\.json"):
        compare(None, methods="gd-hla", seeds=[0], out=tmp_path)
    assert asked == []


def test_notes_are_said_where_there_is_somebody_to_hear(asked, tmp_path):
    said = io.StringIO()
    compare(
        {"method": {"name": "gd-hla", "pattern": "triangle"}},
        methods="rgd-hla",
        seeds=[0],
        out=tmp_path,
        baselines=False,
        console=Console(file=said, width=200),
    )
    assert said.getvalue().startswith("note: ")
