"""What a run says of its head, and what a plan says that head statistics cost."""

import json

import pytest

from fedhello.model.head import HeadSettings
from fedhello.runs.heads import HeadChange
from fedhello.runs.heads_said import head_line

HEAD_ONLY = ["method.name=head-only", "train.rounds=1"]


def test_the_line_says_from_what_and_how_the_head_was_solved():
    change = HeadChange(20, 1360, 1, 1, shrinkage=0.3, temperature=0.345, loss=0.3834, left_out=7)
    assert head_line(change, HeadSettings(), 2) == (
        "head: solved from 1,360 samples of 20 clients; 7 samples left out by clients with few of their class "
        "(model.least=2); solver lda, "
        "shrinkage 0.3, temperature 0.345, −log p 0.383 on validation"
    )


@pytest.mark.parametrize(
    ("adopted", "said"), [(True, "; adopted: {} is more"), (False, "; not adopted: {} is not surely more")]
)
def test_the_line_says_why_the_last_head_is_adopted_or_not(adopted, said):
    change = HeadChange(4, 40, 1, 1, 0.1, 2.0, 0.5, adopted=adopted, loss_before=0.25)
    line = head_line(change, HeadSettings(), 2, 20)
    assert line.startswith("head after round 20: solved from 40 samples of 4 clients; ")
    assert line.endswith(said.format("that of the earlier model, 0.250,"))


def test_prototypes_and_the_servers_own_samples_are_called_so():
    prototypes = head_line(HeadChange(3, 30, 1, 1), HeadSettings("prototypes"), 2)
    assert prototypes == "prototypes: from 30 samples of 3 clients"
    assert "from 12 samples of the server;" in head_line(HeadChange(0, 12, 0, 0, 0.1, 1.0, 1.0), HeadSettings(), 2)


def test_a_run_counts_what_least_leaves_out_and_notes_it(workplace, call):
    histogram = None
    for least in (1, 6):
        words = [*HEAD_ONLY, f"model.least={least}", f"run.name=least-{least}"]
        code, out, err = call(workplace, "run", "tiny.yaml", "--json", *words)
        assert code == 0, err
        summary = json.loads(out)
        (change,) = summary["head"]["changes"]
        clients = json.loads((workplace / "runs" / f"least-{least}" / "clients.json").read_text())["clients"]
        histogram = [n for entry in clients for n in entry["labels"].values()]
        expected = sum(n for n in histogram if n < least)
        assert (change["left_out"], change["samples"]) == (expected, sum(histogram) - expected)
        (line,) = [note for note in summary["notes"] if note.startswith("head: solved from")]
        assert ("(model.least=" in line) == (expected > 0)
        assert line in (workplace / "runs" / f"least-{least}" / "log.txt").read_text()
    assert any(n < 6 for n in histogram)
