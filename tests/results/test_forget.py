"""A finished head-only run forgets clients as if they had never taken part."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
import torch

from fedhello.config.load import load_config
from fedhello.engine.local import LocalEngine
from fedhello.runs.checkpoint import Checkpoints
from fedhello.runs.confusion import read_confusion
from fedhello.runs.folder import RunFolder
from fedhello.runs.runner import run_session
from fedhello.setup.prepare import prepare

WORDS = ["method.name=head-only", "train.rounds=2", "train.lr_schedule=constant"]
MOMENTS = {"full": [], "diagonal": ["model.moments=diagonal"], "sketch": ["model.moments={sketch: 4}"]}


class Without:
    """The engine of a federation in which a client never took part: its contribution never comes."""

    def __init__(self, engine, absent):
        self._engine, self._absent = engine, absent

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def head_sums(self, clients=None, adapter=None):
        return (one for one in self._engine.head_sums(clients, adapter) if not self._absent.issuperset(one.clients))


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def finished(workplace, call):
    """A finished run of head-only."""
    code, _, err = call(workplace, "run", "tiny.yaml", "--quiet", *WORDS, "run.name=remembers")
    assert code == 0, err
    return workplace / "runs" / "remembers"


@pytest.fixture
def copied(finished, workplace):
    """A copy of it, which may change."""
    copy = workplace / "runs" / "forgets"
    shutil.copytree(finished, copy)
    yield copy
    shutil.rmtree(copy)


@pytest.mark.parametrize("moments", MOMENTS)
def test_what_is_left_is_what_a_run_without_the_clients_makes(moments, workplace, call, tmp_path):
    words = [*WORDS, "model.final=false", *MOMENTS[moments], f"run.out={tmp_path}"]
    assert call(workplace, "run", "tiny.yaml", "--quiet", *words, "run.name=all")[0] == 0
    run = tmp_path / "all"
    with_all, with_all_confusion = files(run / "adapter"), read_confusion(run)
    code, out, err = call(workplace, "forget", run, "--client", 3, "--client", 1, "--json")
    assert code == 0, err
    summary = json.loads(out)
    with contextlib.chdir(workplace):
        session = prepare(load_config(workplace / "tiny.yaml", words))
        expected = run_session(
            replace(session, engine=Without(session.engine, {1, 3})), RunFolder(tmp_path / "fewer")
        ).to_dict()
    assert files(run / "adapter") == files(tmp_path / "fewer" / "adapter") != with_all
    assert summary["final_scores"] == expected["final_scores"]
    assert (summary["status"], summary["forgotten"]) == ("finished", [1, 3])
    confusions = [read_confusion(path) for path in (run, tmp_path / "fewer")]
    assert confusions[0].after == confusions[1].after
    assert confusions[0].before == with_all_confusion.before, "as in the summary, that of the run with all"
    ours, theirs = (Checkpoints(p / "checkpoints").latest(print).state for p in (run, tmp_path / "fewer"))
    assert ours.head_clients == theirs.head_clients == (0, 2)
    assert all(torch.equal(value, theirs.head_sums[name]) for name, value in ours.head_sums.items())


def test_one_after_the_other_is_both_at_once(copied, workplace, call, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(copied, both)
    assert call(workplace, "forget", both, "--client", 0, "--client", 2)[0] == 0
    assert call(workplace, "forget", copied, "--client", 2)[0] == 0
    assert call(workplace, "forget", copied, "--client", 0)[0] == 0
    assert files(copied / "adapter") == files(both / "adapter")
    assert RunFolder(copied).summary().forgotten == (0, 2)


def test_no_checkpoint_keeps_the_sums(copied, workplace, call):
    assert len(Checkpoints(copied / "checkpoints").files()) > 1
    before = Checkpoints(copied / "checkpoints").latest(print).state.head_sums
    assert call(workplace, "forget", copied, "--client", 1)[0] == 0
    (only,) = Checkpoints(copied / "checkpoints").files()
    state = Checkpoints(only.parent).latest(print).state
    assert (state.head_clients, state.forgotten) == ((0, 2, 3), (1,))
    assert int(state.head_sums["counts"].sum()) < int(before["counts"].sum())


def test_whoever_is_forgotten_does_not_come_back_with_later_rounds(copied, workplace, call):
    assert call(workplace, "forget", copied, "--client", 1)[0] == 0
    adapter = files(copied / "adapter")
    code, _, err = call(workplace, "resume", copied, "train.rounds=4", "--quiet")
    assert code == 0, err
    assert files(copied / "adapter") == adapter
    summary = RunFolder(copied).summary().to_dict()
    assert (summary["rounds"], summary["forgotten"]) == (4, [1])


def test_what_was_stopped_in_between_is_done_by_the_same_call(copied, workplace, call, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(copied, whole)
    assert call(workplace, "forget", whole, "--client", 1)[0] == 0
    shutil.rmtree(copied / "checkpoints")
    shutil.copytree(whole / "checkpoints", copied / "checkpoints")  # killed after the checkpoint, before the adapter
    assert call(workplace, "forget", copied, "--client", 1)[0] == 0
    assert files(copied / "adapter") == files(whole / "adapter")
    assert RunFolder(copied).summary().final_scores == RunFolder(whole).summary().final_scores


def test_a_class_that_nobody_is_left_with_changes_nothing(copied, workplace, call):
    before = files(copied / "adapter"), files(copied / "checkpoints"), (copied / "summary.json").read_bytes()
    code, _, err = call(workplace, "forget", copied, *(word for k in range(4) for word in ("--client", k)))
    assert code == 3
    assert "expected every class to have a training sample" in err
    assert before == (files(copied / "adapter"), files(copied / "checkpoints"), (copied / "summary.json").read_bytes())


def test_unknown_and_forgotten_clients_are_refused(copied, workplace, call):
    code, _, err = call(workplace, "forget", copied, "--client", 4)
    assert (code, "expected clients of the run, 0 to 3; found 4" in err) == (2, True)
    assert call(workplace, "forget", copied, "--client", 0)[0] == 0
    code, _, err = call(workplace, "forget", copied, "--client", 0)
    assert (code, "client 0 is" in err) == (2, True)


def test_other_data_is_refused(copied, workplace, call):
    file = copied / "clients.json"
    found = json.loads(file.read_text())
    found["clients"][2]["samples"] += 1
    file.write_text(json.dumps(found))
    code, _, err = call(workplace, "forget", copied, "--client", 0)
    assert (code, "client 2 has other data" in err) == (5, True)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("name: head-only", "name: full", "found full"),
        ("head: solved", "head: prototypes", "found prototypes"),
        ("moments: full", "moments: means", "means, whose products of class means are rounded"),
        ("engine: local", "engine: flower", "over a network"),
    ],
)
def test_runs_that_are_no_sums_are_refused(before, after, said, copied, workplace, call):
    config = (copied / "config.yaml").read_text()
    assert before in config
    (copied / "config.yaml").write_text(config.replace(before, after, 1))
    code, _, err = call(workplace, "forget", copied, "--client", 0)
    assert (code, said in err) == (2, True)
    assert err.count("\n") == 1


def test_the_sums_taken_away_are_of_the_batches_that_were_added(copied, workplace, call, monkeypatch):
    """Features may differ in their last bit where others are in the batch: of the demo's, 1 number in 200 of G does."""
    asked = []
    whole = LocalEngine.head_sums

    def watched(self, clients=None, adapter=None):
        asked.append((clients, adapter))
        return whole(self, clients, adapter)

    monkeypatch.setattr(LocalEngine, "head_sums", watched)
    assert call(workplace, "forget", copied, "--client", 1)[0] == 0
    assert asked == [(None, None)]
