"""A real run, its page in a real browser: it moves on its own, within 2 s of each round, and keeps to its policy."""

import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine"),
]

WORDS = (
    "model.pooling=mean", "model.head=solved", "method.name=full", "train.rounds=6", "train.clients_per_round=4",
    "train.epochs=120", "run.name=seen", "run.workers=1",
)  # fmt: skip

SEEN = """
window.seen = {updates: [], strip: [], bars: 0};
new MutationObserver(() => {
  const updates = Number(document.documentElement.dataset.updates ?? 0);
  if (updates !== window.seen.updates.length) window.seen.updates.push(Date.now() / 1000);
}).observe(document.documentElement, {attributes: true});
new MutationObserver(() => window.seen.strip.push(document.getElementById("live").textContent))
  .observe(document.getElementById("live"), {childList: true, characterData: true, subtree: true});
new MutationObserver(() => {
  window.seen.bars = Math.max(window.seen.bars, document.querySelectorAll("#now .client").length);
}).observe(document.getElementById("now"), {childList: true});
"""


def lines_with_times(file, ended):
    """When each line of a file was seen first."""
    times = []
    while not ended.is_set() or not times:
        found = file.read_bytes().count(b"\n") if file.is_file() else 0
        times += [time.time()] * (found - len(times))
        time.sleep(0.01)
    return times


def address(process):
    """Return the page's address, which is printed before anything is loaded."""
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line):
            return found[0]
    raise AssertionError(process.stdout.read())


@pytest.fixture
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    with sync.sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


def test_a_page_follows_a_run_from_loading_to_its_end(place, browser):
    command = [sys.executable, "-m", "fedhello", "run", "tiny.yaml", "--watch", *WORDS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place)
    ended, times, wrong = threading.Event(), [], []
    clock = threading.Thread(
        target=lambda: times.extend(lines_with_times(place / "runs" / "seen" / "rounds.jsonl", ended))
    )
    clock.start()
    try:
        page = browser.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        url = address(process)
        page.goto(url)
        assert page.title() == "seen – loading"
        page.wait_for_selector("body[data-live]", timeout=120_000)  # the run has begun
        page.evaluate(SEEN)
        page.wait_for_selector("#live:text-is('the run has ended')", timeout=120_000)
        page.wait_for_timeout(5000)  # the server has gone, the page stays, with what came last
        seen = page.evaluate("seen")
        assert page.inner_text("#live") == "the run has ended"
        assert page.inner_text("#main").endswith("Versions")
    finally:
        ended.set()
        out, _ = process.communicate(timeout=60)
        clock.join()
    assert process.returncode == 0, out
    assert len(times) == 6
    late = [min((update - line for update in seen["updates"] if update >= line), default=9.9) for line in times]
    # The first rounds may have ended before the page was there.
    late = [seconds for line, seconds in zip(times, late, strict=True) if line > seen["updates"][0]]
    print(f"seconds from a round's line to the page: {[round(seconds, 2) for seconds in late]}")
    assert len(late) >= 3 and max(late) < 2.0
    assert seen["bars"] == 4
    assert any(re.fullmatch(r"round [23456] of 6, training, about .* left", said) for said in seen["strip"])
    # What was refused before the page was there, and that the server has gone, is no error of the page.
    assert not [one for one in wrong if "ERR_CONNECTION_REFUSED" not in one and "ERR_INCOMPLETE" not in one]


def test_a_page_of_a_finished_run_is_served_until_it_is_ended(place, browser, call):
    code, _, err = call(place, "run", "tiny.yaml", "--quiet", "train.rounds=1", "run.name=over", "model.pooling=mean")
    assert code == 0, err
    command = [sys.executable, "-m", "fedhello", "watch", "runs/over"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=place)
    try:
        url = re.search(r"http://\S+", process.stdout.readline())[0]
        page = browser.new_page()
        wrong = []
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(url)
        page.wait_for_selector("#live:text-is('the run has ended')")
        page.wait_for_selector(".figure svg, .figure canvas")
        assert not wrong
        assert browser.new_page().goto(url.replace("token=", "token=x")).status == 403
    finally:
        process.send_signal(2)
        process.communicate(timeout=20)
    assert process.returncode == 130
