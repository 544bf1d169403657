"""Pages from made-up runs, whose numbers are known."""

import csv
import json
import sys
from xml.etree import ElementTree

import pytest
from pages import check_page

CONFIG, FOLDER = 2, 5


@pytest.fixture
def no_drawing(monkeypatch):
    """Without pages and pictures, which take the most time here."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)


def test_several_runs_side_by_side(two_methods, call, tmp_path):
    code, out, err = call(tmp_path, "report", *two_methods, "--out", "both", "--target", "0.7")
    assert (code, err) == (0, "")
    assert {file.name for file in (tmp_path / "both").iterdir()} == {
        "comparison.json",
        "results.csv",
        "report.html",
        "learning-curves.svg",
        "accuracy-by-upload.svg",
        "accuracy-by-memory.svg",
    }
    assert "0.750 ± 0.212" in out
    assert "not told apart by 2 seeds" in out
    assert "The target is a test accuracy of 0.7000, as given." in out
    check_page((tmp_path / "both" / "report.html").read_text())
    for name in ("learning-curves", "accuracy-by-upload", "accuracy-by-memory"):
        picture = ElementTree.fromstring((tmp_path / "both" / f"{name}.svg").read_text())
        texts = {"".join(one.itertext()) for one in picture.iter("{http://www.w3.org/2000/svg}text")}
        assert {"fed-hello", "gd-hla", "test accuracy"} <= texts


def test_what_a_page_quotes_is_no_markup(made_up, call, tmp_path):
    name = "data.name=<script>alert(1)</script>"
    runs = [made_up(f"{method}<b>", method, 0, [0.6, 0.7], name) for method in ("fed-hello", "full")]
    assert call(tmp_path, "report", *runs, "--out", "<i>both")[0] == 0
    page = (tmp_path / "<i>both" / "report.html").read_text()
    check_page(page)
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "<title>fedhello: &lt;i&gt;both</title>" in page
    assert "full<b>" not in page


def test_the_csv_has_one_row_per_run_and_json_is_the_comparison_alone(two_methods, call, tmp_path, no_drawing):
    code, out, _ = call(tmp_path, "report", *two_methods, "--out", "both", "--target", "0.7", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "both" / "comparison.json").read_text())
    rows = list(csv.DictReader((tmp_path / "both" / "results.csv").read_text().splitlines()))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("fed-hello", "0"),
        ("fed-hello", "1"),
        ("gd-hla", "0"),
        ("gd-hla", "1"),
    ]
    assert list(rows[0]) == [
        "method",
        "seed",
        "lr",
        "rounds",
        "start",
        "final",
        "mean_last_5",
        "best_on_validation",
        "bytes_up",
        "bytes_down",
        "flops",
        "target",
        "rounds_to_target",
        "bytes_up_to_target",
        "bytes_down_to_target",
        "flops_to_target",
        "wall_seconds",
        "train_seconds",
        "peak_bytes_tier_0",
        "peak_bytes_tier_1",
        *(f"accuracy_at_bytes_up_{round(6200 * share)}" for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)),
        *(f"accuracy_at_flops_{round(6e9 * share)}" for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)),
    ]
    assert (rows[0]["bytes_up_to_target"], rows[2]["bytes_up_to_target"]) == ("2200", "")
    assert float(rows[3]["mean_last_5"]) == pytest.approx(0.9)


def test_a_comparisons_folder_is_read_again_in_its_own_order_and_terms(two_methods, call, tmp_path, no_drawing):
    asked = ("--reference", "fed-hello", "--target", "0.6", "--json")
    first = call(tmp_path, "report", *two_methods[2:], *two_methods[:2], "--out", "cmp", *asked)
    (tmp_path / "cmp" / "runs").mkdir()
    for folder in two_methods:
        folder.rename(tmp_path / "cmp" / "runs" / folder.name)
    again = call(tmp_path, "report", "cmp", "--json")
    assert first[0] == again[0] == 0
    assert json.loads(again[1])["labels"] == ["gd-hla", "fed-hello"]
    assert json.loads(again[1])["reference"] == "fed-hello"
    assert json.loads(again[1]) == json.loads(first[1])


def test_the_same_runs_give_the_same_files(two_methods, call, tmp_path):
    for out in ("one", "two"):
        assert call(tmp_path, "report", *two_methods, "--out", out)[0] == 0
    for file in (tmp_path / "one").iterdir():
        twin = (tmp_path / "two" / file.name).read_text()
        assert twin.replace("fedhello: two", "fedhello: one") == file.read_text(), file.name


def test_without_memory_measured_there_is_no_picture_of_it(made_up, call, tmp_path):
    runs = [made_up(f"m-seed{seed}", "fed-hello", seed, [0.5], peaks=(None, None)) for seed in (0, 1)]
    code, out, _ = call(tmp_path, "report", *runs, "--out", "both")
    assert code == 0
    assert not (tmp_path / "both" / "accuracy-by-memory.svg").exists()
    assert "– (1 block)" in out


def test_without_the_drawing_library_the_numbers_are_written_and_one_sentence_says_how_to_get_the_pictures(
    two_methods, call, tmp_path, no_drawing
):
    code, out, err = call(tmp_path, "report", *two_methods, "--out", "both")
    assert code == 0
    assert {file.name for file in (tmp_path / "both").iterdir()} == {"comparison.json", "results.csv"}
    assert "0.750 ± 0.212" in out
    assert err.startswith("note: no pictures and no report.html")
    assert "pip install 'fedhello[report]'" in err
    assert err.count("\n") == 1


# bad input


@pytest.mark.parametrize(
    ("code", "words", "sentence"),
    [
        (CONFIG, ["a", "b"], "expected --out"),
        (CONFIG, ["a", "b", "--out", "both", "--picture", "x.svg"], "expected no --picture here; that is for one run"),
        (CONFIG, ["a", "--out", "both"], "expected no --out here; that is for several runs or a comparison"),
        (CONFIG, ["a", "b", "--out", "both", "--target", "80"], "expected the target to be an accuracy"),
        (CONFIG, ["a", "b", "--out", "both", "--reference", "aa"], "expected the reference to be one of a, b"),
        (FOLDER, ["a", "absent", "--out", "both"], "expected the folder of a run; absent has no config.yaml"),
        (FOLDER, ["a", "b", "--out", "a"], "expected a new folder or one of a comparison; a has config.yaml"),
        (FOLDER, ["a", "b", "--out", "a/config.yaml"], "it is not a folder that can be written"),
        (FOLDER, ["a", "b", "--out", "a/config.yaml/x"], "a/config.yaml is not a folder that can be written"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(made_up, call, tmp_path, code, words, sentence):
    made_up("a", "fed-hello", 0, [0.5])
    made_up("b", "gd-hla", 0, [0.6])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found, out, err = call(tmp_path, "report", *words)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
