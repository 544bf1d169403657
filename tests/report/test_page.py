"""Pages and tables from made-up runs, whose numbers are known."""

import csv
import json
import re
import shutil
import sys

import pytest

from fedhello.errors import ConfigError, RunFolderError
from fedhello.report import tables
from fedhello.results.comparison import collect, compare, describe, run_folders
from fedhello.results.finished import read_run
from fedhello.runs.folder import RunFolder

CONFIG, FOLDER = 2, 5


@pytest.fixture
def two_methods(made_up, tmp_path):
    """Two methods with two seeds: fed-hello 0.7 and 0.8, gd-hla 0.6 and 0.9 at the end."""
    made_up("fed-hello-seed0", "fed-hello", 0, [0.6, 0.7, 0.7, 0.7, 0.7, 0.7])
    made_up("fed-hello-seed1", "fed-hello", 1, [0.7, 0.8, 0.8, 0.8, 0.8, 0.8])
    made_up("gd-hla-seed0", "gd-hla", 0, [0.6] * 6, up=500)
    made_up("gd-hla-seed1", "gd-hla", 1, [0.9] * 6, up=500, peaks=(3e6, 4e6))
    return [tmp_path / f"{method}-seed{seed}" for method in ("fed-hello", "gd-hla") for seed in (0, 1)]


def described(paths, **how):
    runs, notes = collect(run_folders(paths))
    return describe(compare(runs, notes=notes, **how))


def method(found, label):
    return next(entry for entry in found["methods"] if entry["method"] == label)


# numbers


def test_means_and_deviations_are_over_seeds(two_methods):
    found = method(described(two_methods), "gd-hla")
    assert found["seeds"] == [0, 1]
    assert found["mean_last_5"] == {
        "n": 2,
        "mean": pytest.approx(0.75),
        "deviation": pytest.approx(0.3 / 2**0.5),
    }
    assert found["final"]["mean"] == pytest.approx(0.75)
    assert found["bytes_up"] == 200 + 6 * 500


def test_the_default_target_is_98_percent_of_the_best_mean_of_the_last_5(two_methods):
    found = described(two_methods)
    assert found["target"] == pytest.approx(0.98 * 0.75)
    assert not found["target_given"]
    assert "98 % of the best method's" in tables.sentences(found)[0]


def test_bytes_to_the_target_end_with_the_first_round_that_reaches_it(two_methods):
    found = described(two_methods, target=0.7)
    rows = {(row["method"], row["seed"]): row for row in found["runs"]}
    assert rows["fed-hello", 0]["rounds_to_target"] == 2  # 0.6, then 0.7
    assert rows["fed-hello", 0]["bytes_up_to_target"] == 200 + 2 * 1000
    assert rows["fed-hello", 0]["bytes_down_to_target"] == 2 * 3000
    assert rows["fed-hello", 1]["rounds_to_target"] == 1
    assert rows["gd-hla", 0]["rounds_to_target"] is None
    assert rows["gd-hla", 0]["bytes_up_to_target"] is None
    gd_hla = method(found, "gd-hla")
    assert (gd_hla["reached_target"], gd_hla["bytes_up_to_target"]) == (1, 200 + 500)
    assert (gd_hla["flops_to_target"], gd_hla["flops"]) == (1e9, 6e9)
    assert tables.tables(found)[2].rows[1] == ("gd-hla", "1 of 2 seeds", "1.0", "700 B", "3 kB", "1 GFLOP")


def test_a_target_that_nobody_reaches_is_a_dash(two_methods):
    found = described(two_methods, target=0.95)
    assert method(found, "gd-hla")["bytes_up_to_target"] is None
    assert tables.tables(found)[2].rows[1][1:] == ("0 of 2 seeds", "–", "–", "–", "–")


def test_a_target_reached_before_training_costs_what_was_sent_before(two_methods):
    (row, *_) = described(two_methods, target=0.5)["runs"]
    assert (row["rounds_to_target"], row["bytes_up_to_target"], row["bytes_down_to_target"]) == (0, 200, 0)


def test_the_default_target_is_not_below_what_the_best_method_begins_with(made_up):
    runs = [
        made_up("fed-hello-seed0", "fed-hello", 0, [0.6] * 5, start=0.9),
        made_up("fed-hello-seed1", "fed-hello", 1, [0.8] * 5, start=0.7),
        made_up("gd-hla-seed0", "gd-hla", 0, [0.5] * 5, start=0.95),
        made_up("gd-hla-seed1", "gd-hla", 1, [0.5] * 5, start=0.95),
    ]
    found = described(runs)
    assert (found["target"], found["target_is_start"]) == (pytest.approx(0.8), True)  # fed-hello's, the best at the end
    assert tables.sentences(found)[0] == (
        "The target is a test accuracy of 0.8000: what the best method begins with, since 98 % of the best method's "
        "mean of the last 5 rounds is less."
    )
    assert not described(runs, target=0.5)["target_is_start"]


def test_accuracies_at_equal_upload_are_those_of_the_last_state_that_cost_no_more(made_up):
    """The ladder's top is what the most expensive run takes: 200 + 4 · 1000 = 4200."""
    runs = [
        made_up("full-seed0", "full", 0, [0.6, 0.7, 0.8, 0.75], flops=1e9),
        made_up("legend-seed0", "legend", 0, [0.55, 0.65, 0.6, 0.7], up=100, flops=5e8),
    ]
    found = described(runs)
    assert found["equal_cost"]["bytes_up"] == [262, 525, 1050, 2100, 4200]
    by_upload = {
        entry["method"]: [at["mean"] for at in entry["at_equal_cost"]["bytes_up"]] for entry in found["methods"]
    }
    assert by_upload["full"] == [0.5, 0.5, 0.5, 0.6, 0.75]  # 200, 1200, 2200, 3200, 4200
    assert by_upload["legend"] == [0.5, 0.6, 0.7, 0.7, 0.7]  # 200, 300, 400, 500, 600
    by_flops = {entry["method"]: [at["mean"] for at in entry["at_equal_cost"]["flops"]] for entry in found["methods"]}
    assert by_flops["full"] == [0.5, 0.5, 0.6, 0.7, 0.75]
    assert by_flops["legend"] == [0.5, 0.55, 0.65, 0.7, 0.7]
    upload, computation = tables.tables(found)[3:5]
    assert upload.columns == ("method", "262 B", "525 B", "1.05 kB", "2.1 kB", "4.2 kB")
    assert upload.rows[1] == ("legend", "0.500", "0.600", "0.700", "0.700", "0.700")
    assert computation.columns[-1] == "4 GFLOP"


def test_what_even_the_start_costs_more_than_is_a_dash(made_up):
    runs = [made_up("a", "full", 0, [0.6], before=900, up=100), made_up("b", "legend", 0, [0.6], before=0, up=1)]
    found = described(runs)
    assert [at["mean"] for at in method(found, "a")["at_equal_cost"]["bytes_up"]] == [None, None, None, None, 0.6]
    assert tables.tables(found)[3].rows[0][1] == "–"


def test_bytes_of_replies_that_do_not_count_belong_to_their_round(made_up):
    folder = made_up("a", "full", 0, [0.6, 0.7])
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1]["rejections"] = [{"client": 1, "bytes_up": 50, "bytes_down": 70}]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_run(RunFolder(folder)).curve
    assert curve.bytes_up == (150, 1150, 2200)  # the summary has 2200: 150 of it before the first round


def test_runs_without_predictions_have_no_flops(made_up):
    runs = [made_up("a", "full", 0, [0.6]), made_up("b", "legend", 0, [0.6], flops=None)]
    found = described(runs)
    assert (method(found, "a")["flops"], method(found, "b")["flops"]) == (1e9, None)
    assert found["equal_cost"]["flops"] == []
    assert [table.title.partition(":")[0] for table in tables.tables(found)][3:] == ["equal upload"]


def test_memory_is_told_against_the_references(made_up):
    """A method that needs as much as the reference must be told from one that needs less."""
    runs = [
        made_up("fed-hello-seed0", "fed-hello", 0, [0.6]),
        made_up("full-seed0", "full", 0, [0.6]),
        made_up("legend-seed0", "legend", 0, [0.6], peaks=(0.8e6, None)),
    ]
    cells = [row[6:] for row in tables.tables(described(runs))[1].rows]
    assert cells == [
        ("2 MB (1 block)", "5 MB (6 blocks)"),
        ("2 MB (1 block)", "5 MB (6 blocks)"),
        ("800 kB −60 % (1 block)", "– (6 blocks)"),
    ]


def test_rounds_that_were_not_scored_are_no_points_of_the_curve(made_up):
    folder = made_up("a", "full", 0, [0.6, 0.7, 0.8], "train.evaluate_every=2", "train.rounds=3")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[0]["test"] = lines[0]["validation"] = None
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = read_run(RunFolder(folder)).curve
    assert (curve.rounds, curve.accuracy, curve.bytes_up) == ((0, 2, 3), (0.5, 0.7, 0.8), (200, 2200, 3200))
    row = described([folder], target=0.55)["runs"][0]
    assert (row["rounds_to_target"], row["bytes_up_to_target"]) == (2, 2200)


def test_learning_rates_of_their_own_are_part_of_the_methods(two_methods, made_up):
    runs, _ = collect(run_folders(two_methods[:2]))
    runs += collect([RunFolder(made_up("full-seed0", "full", 0, [0.7], "train.lr=0.02"))])[0]
    rates = {"fed-hello": {"rate": 2e-3, "at_edge": False}, "full": {"rate": 0.02, "at_edge": True}}
    tuning = {"seed": 0, "rounds": 3, "rates": [0.001, 2e-3, 0.02]}
    tuning["methods"] = {label: found | {"validation": [0.5, None, 0.625]} for label, found in rates.items()}
    found = describe(compare(runs, tuning=tuning))
    assert found["only_methods_differ"]
    assert not any("train.lr" in note for note in found["notes"])
    (edge,) = [note for note in found["notes"] if "edge" in note]
    assert edge.startswith("the learning rate of full, 0.02, is at the edge")
    assert not describe(compare(runs))["only_methods_differ"]
    assert (method(found, "full")["lr"], method(found, "fed-hello")["lr"]) == (0.02, 2e-3)
    table = tables.tables(found)[-1]
    assert table.columns == ("method", "chosen", "0.001", "0.002", "0.02")
    assert table.rows[1] == ("full", "0.02", "0.500", "–", "0.625")


def test_a_peak_is_the_largest_of_all_seeds(two_methods):
    tiers = method(described(two_methods), "gd-hla")["tiers"]
    assert [tier["peak_bytes"] for tier in tiers] == [3e6, 5e6]


def test_differences_are_against_the_first_or_the_reference_asked_for(two_methods):
    (found,) = described(two_methods)["differences"]
    assert (found["method"], found["n"]) == ("gd-hla", 2)
    assert found["mean"] == pytest.approx(0)  # −0.1 and +0.1
    assert found["verdict"] == "not told apart by 2 seeds"
    (found,) = described(two_methods, reference="gd-hla")["differences"]
    assert found["method"] == "fed-hello"


def test_verdicts_of_several_methods_are_adjusted_and_the_tables_say_so(two_methods, made_up):
    assert not any("Holm" in sentence for sentence in tables.sentences(described(two_methods)))
    two_methods += [made_up(f"rgd-hla-seed{s}", "rgd-hla", s, [a]) for s, a in ((0, 0.1), (1, 0.2001))]
    found = described(two_methods)
    difference = {entry["method"]: entry for entry in found["differences"]}["rgd-hla"]
    assert difference["verdict"] == "worse"
    assert difference["p_adjusted"] == pytest.approx(2 * difference["p"])
    (row,) = (row for row in tables.tables(found)[0].rows if row[0] == "rgd-hla")
    assert row[-2:] == (f"{difference['p_adjusted']:.2g}", "worse")
    assert any("adjusted for 2 methods against one reference (Holm)" in s for s in tables.sentences(found))


# what does not go together


def test_an_unfinished_run_is_left_out_with_a_note(two_methods, made_up):
    made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], status="interrupted")
    found = described([*two_methods, two_methods[0].parent / "rgd-hla-seed0"])
    assert found["labels"] == ["fed-hello", "gd-hla"]
    assert any(note.startswith("rgd-hla-seed0 is left out") for note in found["notes"])


def test_runs_that_differ_in_more_than_the_method_are_noted(two_methods, made_up):
    assert described(two_methods)["notes"] == []
    other = made_up("rgd-hla-seed0", "rgd-hla", 0, [0.5], "train.lr=0.1")
    notes = described([*two_methods, other])["notes"]
    assert any("train.lr" in note for note in notes)
    assert any("different seeds" in note for note in notes)


def test_one_mean_over_two_configurations_is_refused(two_methods, made_up):
    other = made_up("fed-hello-seed2", "fed-hello", 2, [0.5], "train.lr=0.1")
    with pytest.raises(ConfigError, match=r"fed-hello to differ in nothing but the seed; .* train\.lr"):
        described([*two_methods, other])


def test_the_same_method_and_seed_twice_is_refused(two_methods):
    again = two_methods[0].parent / "again" / two_methods[0].name
    shutil.copytree(two_methods[0], again)
    with pytest.raises(ConfigError, match="both fed-hello with seed 0"):
        described([*two_methods, again])


def test_fewer_rounds_than_the_summary_says_is_refused(made_up):
    folder = made_up("x", "fed-hello", 0, [0.5, 0.6])
    (folder / "rounds.jsonl").write_text("")
    with pytest.raises(RunFolderError, match=r"expected the 2 rounds of the summary"):
        read_run(RunFolder(folder))


# the command


def loaded(page):
    """Return what a page would fetch: the values of src, href and url(), without links within the page."""
    found = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(["']?([^"')]*)|@import\s+(\S+)""", page)
    return [target for groups in found for target in groups if target and not target.startswith("#")]


def check_page(page):
    assert all(target.startswith("data:") for target in loaded(page))
    assert "<script" not in page
    assert "<link" not in page
    assert '<meta name="viewport" content="width=device-width' in page
    assert "color-scheme: light dark" in page
    assert "@media (prefers-color-scheme: dark)" in page
    assert "overflow-x: auto" in page
    assert page.count("<div") == page.count("</div>")


def test_the_check_of_a_page_finds_what_a_page_would_fetch():
    page = '<img src="https://a.org/x.png"><link href=\'http://b.org\'><style>@import url(//c.org)</style><a href="#x">'
    assert len(loaded(page)) >= 3


@pytest.fixture
def no_matplotlib(monkeypatch):
    """Without pictures, which take the most time here."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


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
    page = (tmp_path / "both" / "report.html").read_text()
    check_page(page)
    assert page.count("<svg") == 5  # three pictures, and one map of blocks per method
    assert "0.750 ± 0.212" in page
    assert "gd-hla, seed 0: how many clients trained each block" in page


def test_what_a_page_quotes_is_no_markup(made_up, call, tmp_path):
    name = "data.name=<script>alert(1)</script>"
    runs = [made_up(f"{method}<b>", method, 0, [0.6, 0.7], name) for method in ("fed-hello", "full")]
    assert call(tmp_path, "report", *runs, "--out", "<i>both")[0] == 0
    page = (tmp_path / "<i>both" / "report.html").read_text()
    check_page(page)
    assert "&lt;script&gt;alert(1)" in page
    assert "<title>fedhello: &lt;i&gt;both</title>" in page


def test_the_csv_has_one_row_per_run_and_json_is_the_comparison_alone(two_methods, call, tmp_path, no_matplotlib):
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


def test_a_comparisons_folder_is_read_again_in_its_own_order_and_terms(two_methods, call, tmp_path, no_matplotlib):
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


def test_one_run_is_drawn_into_its_own_folder(two_methods, call, tmp_path):
    code, out, _ = call(tmp_path, "report", two_methods[0])
    assert (code, out) == (0, f"{two_methods[0] / 'report.html'}\n")
    page = (two_methods[0] / "report.html").read_text()
    check_page(page)
    assert page.count("<svg") == 1
    assert call(tmp_path, "report", two_methods[0], "--picture", "one.svg")[0] == 0
    assert (tmp_path / "one.svg").read_text().startswith("<svg")


def test_without_memory_measured_there_is_no_picture_of_it(made_up, call, tmp_path):
    runs = [made_up(f"m-seed{seed}", "fed-hello", seed, [0.5], peaks=(None, None)) for seed in (0, 1)]
    code, out, _ = call(tmp_path, "report", *runs, "--out", "both")
    assert code == 0
    assert not (tmp_path / "both" / "accuracy-by-memory.svg").exists()
    assert "– (1 block)" in out


def test_without_matplotlib_the_numbers_are_written_and_one_sentence_says_how_to_get_the_pictures(
    two_methods, call, tmp_path, no_matplotlib
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
