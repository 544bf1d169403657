"""The page of a run, as a file and live, in a real browser."""

import csv
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from big_runs import big_round, big_run
from pages import check_page, chromium, shown, violations  # noqa: F401

import fedhello as fh
from fedhello.report.run_page import RunPage, write_report
from fedhello.runs.formats import write_round

SIZES = {"clients": 30, "rounds": 5, "a_round": 20, "classes": 6, "blocks": 6}


@pytest.fixture
def folder(tmp_path):
    return big_run(tmp_path / "<i>run", **SIZES)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(big_run(tmp_path_factory.mktemp("runs") / "run", **SIZES).path)


def test_a_run_is_written_into_its_own_folder_as_one_file(folder, call, tmp_path):
    code, out, _ = call(tmp_path, "report", folder.path)
    assert (code, out) == (0, f"{folder.path / 'report.html'}\n")
    page = (folder.path / "report.html").read_text()
    check_page(page)
    assert "<title>fedhello: &lt;i&gt;run</title>" in page
    assert len(page) < 1_500_000
    titles = [
        "How good is it?",
        "What did each client do?",
        "What did it cost?",
        "Why was it not more?",
        "Is it private?",
        "Notes, configuration, versions",
    ]
    places = [page.index(f'-title">{title}</h2>') for title in titles]
    assert places == sorted(places)


def test_the_picture_alone_is_one_svg(folder, tmp_path):
    assert write_report(folder.path, picture=tmp_path / "one.svg") == tmp_path / "one.svg"
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn.startswith("<svg")
    assert "Learning curve" in drawn and "Which block was trained when" in drawn
    assert not (folder.path / "report.html").exists()


def test_a_run_without_a_round_has_no_report(tmp_path):
    run = big_run(tmp_path / "run", **{**SIZES, "rounds": 0})
    with pytest.raises(fh.RunFolderError, match="at least one finished round"):
        write_report(run.path)


@pytest.mark.parametrize(
    ("text", "found"), [("model: x\n", "'x'"), ("model: {}\nprivacy: [1]\n", "[1]"), ("a\n", "'a'")]
)
def test_a_configuration_that_is_none_is_named(folder, text, found):
    (folder.path / "config.yaml").write_text(text)
    with pytest.raises(
        fh.RunFolderError, match=r"configuration of a run in .*config\.yaml, with keys and values"
    ) as said:
        RunPage(folder)
    assert f"found {found}" in str(said.value)


def test_a_run_that_goes_on_has_a_page_from_its_first_moment(tmp_path):
    page = RunPage(big_run(tmp_path / "run", ended=False, **{**SIZES, "rounds": 0}))
    assert "Nothing has been scored yet." in page.main(live=True)
    assert "the run has not ended" in page.html(live=True)
    assert not page.refresh()


def test_the_page_says_the_same_without_a_plan_a_summary_or_a_matrix(tmp_path):
    run = big_run(tmp_path / "run", ended=False, **SIZES)
    assert "so far, after 5 rounds" in RunPage(run).main()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_figures_are_drawn_and_nothing_serious_bars_anybody(report, chromium, scheme):  # noqa: F811
    with shown(chromium, report, scheme=scheme) as page:
        assert page.locator(".figure").count() == 12
        assert page.locator("#curve svg path").count() > 5
        assert page.evaluate("getComputedStyle(document.body).colorScheme") == "light dark"
        assert violations(page) == []


@pytest.mark.parametrize("width", [390, 800])
def test_it_fits_a_phone_and_a_tablet(report, chromium, width):  # noqa: F811
    with shown(chromium, report, width=width) as page:
        assert violations(page) == []


def test_a_reader_sorts_downloads_and_switches_to_dark(report, chromium, tmp_path):  # noqa: F811
    with shown(chromium, report) as page:
        table = page.locator(".part:has(h3:text-is('Clients'))")
        table.get_by_role("button", name="accuracy").click()
        shares = [float(cell.get_attribute("data-v")) for cell in table.locator("tbody tr td:nth-child(6)").all()]
        assert shares == sorted(shares, reverse=True) and len(set(shares)) > 3
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
        table.get_by_role("button", name="accuracy").press("Enter")
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"

        page.locator("#blocks summary").click()
        with page.expect_download() as download:
            page.locator("#blocks .csv").click()
        rows = list(csv.reader(Path(download.value.path()).read_text(encoding="utf-8").splitlines()))
        assert rows[0] == ["round", *map(str, range(6))] and len(rows) == 6
        assert download.value.suggested_filename == "Which-block-was-trained-when.csv"

        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        text = page.locator("#curve svg text").first.get_attribute("fill")
        page.get_by_role("button", name="Dark").click()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_function(f"document.querySelector('#curve svg text').getAttribute('fill') !== '{text}'")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_without_its_script_a_page_still_reads(report, chromium):  # noqa: F811
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    page.locator("#curve summary").click()
    assert page.locator("#curve tbody tr").count() == 6
    assert page.locator(".plot").first.is_hidden() and page.locator(".csv").first.is_hidden()
    context.close()


class _Server(ThreadingHTTPServer):
    """A server that says that something has changed as often as it is told."""

    def __init__(self, page):
        self.page, self.changes = page, threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/events":
            return self._events()
        body = (self.server.page.main(True) if path == "/main" else self.server.page.html(True)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return self.wfile.write(body)

    def _events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._tell("status", {"phase": "training", "round": 5, "rounds": 8, "seconds_left": 120, "clients": []})
        while self.server.changes.acquire(timeout=20):
            if self.server.page is None:
                return
            self._tell("change", {})

    def _tell(self, name, value):
        self.wfile.write(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *args):
        pass


def test_a_live_page_takes_new_numbers_and_keeps_what_was_opened_and_sorted(tmp_path, chromium):  # noqa: F811
    run = big_run(tmp_path / "run", ended=False, **SIZES)
    server = _Server(RunPage(run))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    context = chromium.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/?token=t")
        page.wait_for_function("document.getElementById('live').textContent.startsWith('round 6 of 8, training')")
        page.locator("#curve svg").wait_for()
        page.locator("#curve summary").click()
        page.locator(".part:has(h3:text-is('Clients')) th button").first.click()
        with (run.path / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(write_round(big_round(np.random.default_rng(1), 5, 30, 20, 6, 8))) + "\n")
        assert server.page.refresh()
        begin = time.perf_counter()
        server.changes.release()
        page.wait_for_function("document.documentElement.dataset.updates === '1'")
        print(f"a change was on the page after {time.perf_counter() - begin:.2f} s")
        assert page.locator("#curve tbody tr").count() == 6
        assert ", 6 of 5 rounds;" in page.locator("header .lead").inner_text()
        assert page.locator("#curve details").get_attribute("open") is not None
        assert page.locator("th[aria-sort]").count() == 1
        page.wait_for_function("document.querySelectorAll('#curve .plot > div').length === 1")
        assert page.locator("#curve svg").count() == 1
        assert said == []
    finally:
        server.page = None
        server.changes.release()
        context.close()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_thousand_clients_over_two_hundred_rounds_open_in_three_seconds(tmp_path, chromium):  # noqa: F811
    file = write_report(big_run(tmp_path / "run").path)
    context = chromium.new_context(viewport={"width": 1300, "height": 900})
    page = context.new_page()
    begin = time.perf_counter()
    page.goto(file.as_uri())
    page.locator("#curve svg").wait_for()
    taken = time.perf_counter() - begin
    context.close()
    print(f"{file.stat().st_size / 1e6:.2f} MB, first figure after {taken:.2f} s")
    assert file.stat().st_size < 4e6
    assert taken < 9.0  # 3 s on a machine of its own; this one may be shared


@pytest.mark.slow
def test_a_round_of_a_thousand_clients_is_shown_in_under_a_second(tmp_path):
    run = big_run(tmp_path / "run", rounds=200, a_round=100)
    page = RunPage(run)
    page.main(live=True)
    with (run.path / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(write_round(big_round(np.random.default_rng(1), 200, 1000, 1000, 12, 201))) + "\n")
    begin = time.process_time()
    assert page.refresh()
    page.main(live=True)
    taken = time.process_time() - begin
    print(f"{taken:.2f} CPU seconds")
    assert taken < 1.0
