import pytest
from pages import check_page, chromium, shown, violations  # noqa: F401

from fedhello.report.comparison_page import comparison_page, side_figures
from fedhello.report.html import page_html
from fedhello.results.comparison import collect, compare, run_folders


def page_of(folders, **how):
    runs, notes = collect(run_folders(folders))
    return comparison_page(compare(runs, notes=notes, **how), "fedhello: both")


def answer(page, section="best"):
    return next(one.answer for one in page.sections if one.id == section)


@pytest.fixture
def apart(made_up):
    """Three seeds: full is better than head-only by 0.100, 0.101 and 0.099, fed-hello by −0.1, 0 and 0.1."""
    made = []
    for seed, (full, fed) in enumerate([(0.1, -0.1), (0.101, 0.0), (0.099, 0.1)]):
        made.append(made_up(f"head-only-seed{seed}", "head-only", seed, [0.6, 0.6]))
        made.append(made_up(f"full-seed{seed}", "full", seed, [0.6, 0.6 + 2 * full], up=9000))
        made.append(made_up(f"fed-hello-seed{seed}", "fed-hello", seed, [0.6, 0.6 + 2 * fed]))
    return made


def test_the_first_sentences_say_who_is_best_and_whether_that_may_be_chance(apart):
    first, second = answer(page_of(apart))
    assert first == "full has the highest test accuracy: 70.0 %, the mean of the last 5 rounds over 3 seeds."
    assert second.startswith("full is better than head-only, and more than by chance: +10.0 [+9.6, +10.4] points; p")
    assert second.endswith(", corrected for 2 methods.")


def test_if_nothing_beats_the_reference_the_next_best_is_told_from_it(apart):
    said = answer(page_of(apart, reference="full"))
    assert said[1].startswith("No method is above full. The next one, ")
    assert "is worse than full, and more than by chance: −10.0" in said[1]
    assert said[2].startswith("full is better than head-only")  # beside the reference, always


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        ([(0.6, 0.7)], "full cannot be compared with head-only: one seed carries no comparison: +10.0 points."),
        ([(0.6, 0.7), (0.5, 0.75)], "full cannot be told from head-only by 2 seeds: +17.5 [−77.8, +112.8] points; p"),
        ([(0.5, 0.75), (0.25, 0.5)], "full differs from head-only by the same in all seeds, which gives no interval"),
        ([(0.6, 0.6), (0.5, 0.5)], "No method differs from head-only."),
    ],
)
def test_what_cannot_be_told_is_said(made_up, accuracies, sentence):
    folders = [
        made_up(f"{method}-seed{seed}", method, seed, [found])
        for seed, pair in enumerate(accuracies)
        for method, found in zip(("head-only", "full"), pair, strict=True)
    ]
    assert answer(page_of(folders))[1].startswith(sentence)


def test_the_table_holds_accuracy_memory_bytes_and_seconds_side_by_side(apart):
    (table,) = [part for part in page_of(apart).sections[0].parts if part.title == "The methods"]
    heads = [column.title for column in table.columns]
    row = dict(zip(heads, [text for text, _ in table.cells()[1]], strict=True))
    assert [cells[0][0] for cells in table.cells()] == ["head-only", "full", "fed-hello"]
    assert row["mean of last 5"] == "70.0 % ± 0.1 %"
    assert row["95 % interval"] == "69.8 … 70.2 %"
    assert row["against head-only"] == "+10.0 [+9.6, +10.4]"
    assert (row["memory from"], row["to"]) == ("2 MB", "5 MB")
    assert (row["sent"], row["received"], row["training"]) == ("18.2 kB", "6 kB", "1.5 s")


def test_without_a_gain_the_page_says_that_there_is_no_target(made_up):
    page = page_of([made_up("head-only-seed0", "head-only", 0, [0.5])])
    assert "there is no target, and no costs to it" in " ".join(answer(page, "costs"))
    assert [section.id for section in page.sections] == ["best", "costs", "learning", "blocks", "runs"]


def test_pictures_beside_the_page_are_those_of_the_page(apart):
    runs, _ = collect(run_folders(apart))
    beside = side_figures(compare(runs))
    assert [figure.id for figure in beside] == ["learning-curves", "accuracy-by-upload", "accuracy-by-memory"]
    on_page = {part.id: part for section in page_of(apart).sections for part in section.parts if hasattr(part, "spec")}
    assert all(on_page[figure.id] == figure for figure in beside)


@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (1300, "dark"), (390, "light"), (390, "dark")])
def test_the_page_is_drawn_sorted_downloaded_and_read_in_a_browser(apart, tmp_path, chromium, width, scheme):  # noqa: F811
    html = page_html(page_of(apart))
    check_page(html)
    assert len(html.encode()) < 2e6
    (tmp_path / "report.html").write_text(html)
    with shown(chromium, tmp_path / "report.html", width=width, scheme=scheme) as page:
        assert page.locator("#accuracies .plot svg .mark-symbol path").count() >= 9
        assert page.locator("#accuracy-by-bytes .plot svg text", has_text="full").count() >= 1
        table = page.locator("table.data").first
        assert table.locator("tbody th").first.inner_text() == "head-only"
        table.get_by_role("button", name="sent").click()
        assert table.locator("tbody th").first.inner_text() == "full"
        assert table.locator("th[aria-sort=descending]").inner_text().startswith("sent")
        page.locator("#differences-0 summary").click()
        with page.expect_download() as download:
            page.locator("#differences-0 .csv").click()
        lines = download.value.path().read_text().splitlines()
        assert lines[0].startswith("method,seed,")
        assert len(lines) == 1 + 2 * 3
        assert violations(page) == []
