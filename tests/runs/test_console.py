"""What is shown of a run: lines on a terminal that is none, a table on one that is, and the same in the log."""

import io
from dataclasses import replace

import pytest
from handmade import SETTINGS, STATUS, begun, lost, played, score, session, trained
from rich.console import Console

from fedhello.model.evaluation import Evaluation
from fedhello.model.sources import CAUSAL_LM, TENSORS
from fedhello.runs import console as module
from fedhello.runs.console import Progress, block_map, loading_lines, said_of, tier_lines
from fedhello.runs.folder import RunFolder
from fedhello.runs.heads import HeadChange
from fedhello.runs.summarise import summarise
from fedhello.runs.summary import RougeSummary
from fedhello.state import RunState
from fedhello.types import Adapter

STATE = RunState(1, Adapter({}, {}))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine").mkdir()
    return RunFolder(tmp_path / "mine")


def shown(attempts, folder=None, start=None, terminal=False, more=lambda summary: summary, **changes):
    """Play attempts; return what was printed."""
    there, out = session(**changes), io.StringIO()
    start = start or begun()
    progress = Progress(Console(file=out, width=200, force_terminal=terminal, color_system=None), folder)
    progress.on_start(there, start)
    for one in attempts:
        assert progress.on_round(STATE, one) is None
    done = sum(one.report.failed is None for one in attempts)
    status = "finished" if done == SETTINGS.rounds else "interrupted"
    progress.on_end(more(summarise(there, start, attempts, wall_seconds=7.4, status=status)))
    return out.getvalue()


ROUND = played(0, [trained(0, 0, (2,)), trained(1, 1, (0, 1, 2))], scored=True, score_bytes_up=1000)


def test_each_round_is_a_line_and_the_log_has_every_line(folder):
    out = shown([ROUND, played(1, test=None)], folder)
    lines = out.splitlines()
    assert lines[:3] == [
        "rgd-hla on some/model: 4 rounds, 2 of 3 clients each, tiers with 1/3 of 3 blocks",
        "note: said before",
        "before training: test 0.250, validation 0.250",
    ]
    assert lines[3] == (
        "round 1 Γ: test 0.500, validation 0.400, loss 1.000, taken –, blocks ··● ●●●, up 1.2 kB, down 600 B, 2.0 s"
    )
    assert lines[4].startswith("round 2: test –, validation –, loss 1.000, taken –, blocks , up 0 B, down 0 B")
    assert lines[5].startswith("interrupted after 2 rounds in 7 s; test accuracy: 0.250 before training, – after")
    assert lines[-1] == f"resume with: fedhello resume {folder.path}"
    assert (folder.path / "log.txt").read_text() == out


def test_a_run_that_stopped_by_its_settings_says_why_and_what_goes_on(folder):
    why = "stopped after round 2 of 4 by train.stop: validation_accuracy has not been better"
    out = shown([], folder, more=lambda summary: summary.but(status="stopped", stopped=why, rounds=2))
    assert why in out.splitlines()
    assert out.splitlines()[-1] == f"resume with: fedhello resume {folder.path} train.stop=null"


def test_a_failed_attempt_changes_nothing_and_says_who_and_why(folder):
    failed = played(1, failed="1 of 2 updates count", attempt=1, rejections=(lost(0, 1), lost(2, 1, "failed", "boom")))
    assert said_of(failed.report) == [
        "round 2, attempt 2: 2 of 2 replies do not count: client 0 late; client 2 failed (boom)",
        "round 2, attempt 2 failed, the state has not changed: 1 of 2 updates count",
    ]
    assert said_of(played(0, flags=("cut in half",)).report) == ["round 1: note: cut in half"]
    assert said_of(ROUND.report) == []
    named = said_of(failed.report, lambda client: f"client {client} (hospital-{client})")
    assert named[0].endswith("client 0 (hospital-0) late; client 2 (hospital-2) failed (boom)")
    out = shown([failed])
    assert "boom" in out
    assert "round 2: test" not in out


def test_what_was_taken_is_alpha_or_whether_the_model_is_handed_back():
    taken = [
        one.split("taken ")[1].split(",")[0]
        for record in (played(0, step=0.25), played(0, selected=1), played(0, selected=0), played(0))
        for one in shown([record]).splitlines()
        if one.startswith("round 1: test")
    ]
    assert taken == ["0.25", "yes", "no", "–"]


def test_a_head_is_told_and_where_a_run_goes_on():
    head = HeadChange(3, 60, 5000, 0, shrinkage=0.5, temperature=2.0, loss=0.75)
    start = begun(head=head, state=replace(STATE, round=2))
    lines = shown([replace(ROUND, head=replace(head, clients=2))], start=start).splitlines()
    assert lines[2] == (
        "head: solved from 60 samples of 3 clients; solver lda, shrinkage 0.5, temperature 2, "
        "−log p 0.750 on validation"
    )
    assert "resumed after round 2 of 4" in lines
    assert any(line.startswith("head after round 1: solved from 60 samples of 2 clients") for line in lines)


def test_a_block_map_is_marks_and_where_that_is_too_wide_counts():
    clients = (trained(0, blocks=(0, 2)), trained(1, blocks=(1,)))
    assert block_map(clients, 3) == "●·● ·●·"
    assert block_map(clients, module.WIDEST_MAP // 2).count("·") == module.WIDEST_MAP - 3
    assert block_map(clients, module.WIDEST_MAP // 2 + 1).split() == ["1"] * 3 + ["0"] * (module.WIDEST_MAP // 2 - 2)


def test_a_terminal_has_a_table_of_the_last_rounds(monkeypatch):
    monkeypatch.setattr(module, "SHOWN_ROUNDS", 2)
    out = shown([played(t, test=(t + 1) / 10) for t in range(4)], terminal=True)
    last = out[out.rindex("who trained which blocks") :]
    assert "0.400" in last and "0.300" in last
    assert "0.200" not in last.split("finished")[0]
    assert "round 1: test" not in out
    assert "took part" in out


def test_quiet_shows_nothing_and_still_logs(folder):
    progress = Progress(None, folder)
    progress.on_start(session(), begun())
    progress.on_round(STATE, ROUND)
    assert "round 1" in (folder.path / "log.txt").read_text()


def test_metrics_from_outside_stand_beside_the_accuracy_and_in_the_result():
    scored = [score(a, surest=a / 2, macro_f1=0.1, perplexity=3.0) for a in (0.25, 0.5)]
    start = replace(begun(), test=scored[0])
    out = shown([replace(ROUND, test=scored[1])], start=start)
    assert "test 0.500 (surest 0.250), validation" in out
    assert "; surest 0.125 → 0.250; perplexity 3.000 → 3.000" in out
    assert "macro" not in out


def test_the_result_names_domains_answers_and_whose_the_accuracy_is():
    def more(summary):
        return summary.but(domains={"a": 0.5, "b": 1.0}, rouge_l=RougeSummary(before=0.1, after=0.9, samples=12))

    out = shown([played(0, selected=1)], more=more)
    assert "0.500 of the selected adapter, 0.500 mean of the last 5" in out
    assert out.count("; ROUGE-L 0.100 → 0.900 on 12 answers; in a 0.500, b 1.000") == 1
    assert shown([]).splitlines()[3] == "interrupted after 0 rounds in 7 s"


def test_a_tiers_line_has_its_budget_and_what_was_measured():
    found = summarise(
        session(), begun(), [played(0, [trained(1, 1, (0, 1), peak_bytes=5000)])], wall_seconds=1.0, status="finished"
    )
    assert tier_lines(found) == [
        "tier 0, clients 1, budget 1 block, took part 0 times, trained each block 0 0 0, peak –, predicted –, "
        "of it saved –, s –, up –, down –",
        "tier 1, clients 2, budget 3 blocks, took part 1 times, trained each block 1 1 0, peak 5 kB, predicted –, "
        "of it saved –, s 0.50, up 100 B, down 300 B",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "  model = AutoModel.from_pretrained('some/model')"),
        ({"pooling": "native"}, "= AutoModelForSequenceClassification.from_pretrained('some/model', num_labels=2)"),
        ({"pooling": "native", "model_kind": CAUSAL_LM}, "= AutoModelForCausalLM.from_pretrained('some/model')"),
        ({"model_kind": TENSORS}, "README.md has code that loads it into your module"),
        ({"personal_heads": True}, "see fedhello predict --client and export --client"),
    ],
)  # fmt: skip
def test_how_the_adapter_is_loaded_follows_the_models_kind(changes, line, folder):
    found = summarise(session(), begun(), [], wall_seconds=1.0, status="finished").but(**changes)
    said = "\n".join(loading_lines(found, folder))
    assert line in said
    assert str(folder.adapter) in said


def test_a_run_with_machines_elsewhere_goes_on_as_a_server(folder):
    out = shown([ROUND], folder, settings=replace(SETTINGS, is_remote=True))
    assert out.splitlines()[-1] == f"resume with: fedhello server {folder.path}/config.yaml"


def test_an_accuracy_that_is_not_finite_is_shown_as_it_is():
    broken = Evaluation(0.5, float("nan"), 40)
    assert "test 0.500" in shown([replace(ROUND, test=broken, train_loss=float("nan"))])


def long_round(progress, seconds, **changes):
    """Tell of a round that takes so many seconds, three times a second."""
    for third in range(3 * seconds):
        now = STATUS.round_started + third / 3
        progress.on_progress(replace(STATUS, updated=now, **changes))


def test_a_long_round_has_a_line_a_minute_where_there_is_no_terminal(folder):
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200), folder)
    progress.on_loading("the model")
    progress.on_progress(replace(STATUS, phase="heads"))
    assert out.getvalue() == ""
    progress.on_start(session(), begun())
    before = len(out.getvalue().splitlines())
    long_round(progress, 59)
    assert len(out.getvalue().splitlines()) == before
    long_round(progress, 200)
    lines = out.getvalue().splitlines()[before:]
    assert len(lines) == 3
    assert lines[0] == (
        "round 3 of 5: training: 0 of 2 have sent; 1 late; berlin step 20 of 60; about 30 s left; best on validation "
        "0.750 after round 2"
    )
    assert (folder.path / "log.txt").read_text() == out.getvalue()


def test_a_terminal_shows_what_is_loaded_and_how_far_a_round_is():
    out = io.StringIO()
    progress = Progress(Console(file=out, width=200, force_terminal=True, color_system=None))
    progress.on_loading("the model")
    for phase in ("heads", "heads", "scoring"):
        progress.on_progress(replace(STATUS, phase=phase))
    assert out.getvalue().split("\n")[:3] == [
        "  the model …", "  solving the head from the clients' statistics …", "  scoring …",
    ]  # fmt: skip
    progress.on_start(session(), begun())
    progress.on_round(STATE, ROUND)
    progress.on_progress(STATUS)
    progress._live.refresh()
    progress.on_end(summarise(session(), begun(), [ROUND], wall_seconds=1.0, status="interrupted"))
    shown_once = out.getvalue()
    assert "training; about 30 s left; best on validation 0.750 after round 2" in shown_once
    assert "step 20 of 60" in shown_once
    assert "step 20 of 60" not in shown_once[shown_once.rindex("who trained which blocks") :]  # the round is over
