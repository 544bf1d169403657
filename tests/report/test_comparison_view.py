import pytest

from fedhello.report.comparison_view import FAR, View, listed
from fedhello.results.comparison import collect, compare, run_folders


def view(folders, **how):
    runs, notes = collect(run_folders(folders))
    return View(compare(runs, notes=notes, **how))


@pytest.fixture
def three(made_up, tmp_path):
    """head-only 0.60 and 0.62, gd-hla 0.70 and 0.72 for more bytes, full 0.65 and 0.67 for the most."""
    for seed in (0, 1):
        made_up(f"gd-hla-seed{seed}", "gd-hla", seed, [0.7 + seed / 50] * 2, up=2000)
        made_up(f"full-seed{seed}", "full", seed, [0.65 + seed / 50] * 2, up=9000)
        made_up(f"head-only-seed{seed}", "head-only", seed, [0.6 + seed / 50] * 2, up=10, peaks=(None, None))
    return tmp_path


def folders(place, *names):
    return [place / f"{name}-seed{seed}" for name in names for seed in (0, 1)]


def test_the_head_alone_comes_first_and_then_the_best(three):
    found = view(folders(three, "full", "gd-hla", "head-only"))
    assert [one.method for one in found.methods] == ["head-only", "gd-hla", "full"]
    assert [one.method for one in found.best] == ["gd-hla"]
    assert list(found.against) == ["full", "head-only"]  # the reference is the first that was given
    assert found.against["head-only"]["gd-hla"].mean == pytest.approx(0.1)


def test_fronts_are_marked_and_said_and_what_was_not_measured_is_named(three):
    found = view(folders(three, "head-only", "gd-hla", "full"))
    sent, _ = found.spent()
    assert {row["method"]: row["front"] for row in sent.records()} == {
        "head-only": "yes", "gd-hla": "yes", "full": "no",
    }  # fmt: skip
    assert "On the Pareto front (filled): head-only and gd-hla." in sent.text
    assert "no worse than full (hollow)" in sent.text
    assert "Not measured: head-only." in found.memory.text
    assert [row["method"] for row in found.memory.records()] == ["gd-hla", "full"]


def test_an_axis_of_accuracies_is_wider_than_what_may_be_chance(three):
    """40 test samples: a standard error is 7 points, and gd-hla's seeds are but 2 points apart."""
    low, high = view(folders(three, "gd-hla")).accuracies().spec["layer"][1]["encoding"]["x"]["scale"]["domain"]
    assert high - low > 4 * (0.71 * 0.29 / 40) ** 0.5
    assert 0 <= low < 0.7 < 0.72 < high <= 1


def test_a_method_far_below_is_left_out_of_pictures_and_named(three, made_up):
    made_up("server-only-seed0", "server-only", 0, [0.71 - FAR - 0.01])
    found = view([*folders(three, "head-only", "gd-hla"), three / "server-only-seed0"])
    for figure in (found.accuracies(), found.spent()[0], *found.differences()):
        assert "server-only" not in {row["method"] for row in figure.records()}
        assert "Far below, and left out: server-only (50.0 %)." in figure.text
    assert "server-only" in {row["method"] for row in found.curves[0].records()}


def test_differences_are_paired_by_seed_and_the_axis_holds_zero(three):
    (figure,) = view(folders(three, "head-only", "gd-hla")).differences()
    assert [(row["seed"], round(row["value"], 6)) for row in figure.records()] == [(0, 0.1), (1, 0.1)]
    low, high = figure.spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert low <= -0.03 < 0.1 < high


def test_one_run_alone_has_nothing_to_differ_from(three):
    found = view([three / "gd-hla-seed0"])
    assert found.against == {}
    assert found.differences() == []


def test_blocks_that_all_train_alike_are_a_sentence_and_no_figure(made_up):
    figures, alike = view([made_up("full-seed0", "full", 0, [0.5, 0.6])]).blocks()
    assert (len(figures), alike) == (1, {})
    assert figures[0].records()[5] == {"round": 1, "block": 5, "clients": 0}


def test_words_are_listed():
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")] == ["a", "a and b", "a, b or c"]
