"""What a page would fetch, and pages in a real browser without a network."""

import re
import shutil
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest


class _Fetched(HTMLParser):
    """Collects what a browser would fetch for a page; scripts and specifications are no markup."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style":
            self.found += re.findall(r"url\(\s*[\"']?([^\"')]*)", data) + re.findall(r"@import\s+(\S+)", data)


def fetched(page):
    """Return the addresses that a page names, without links within the page and data in it."""
    parser = _Fetched()
    parser.feed(page)
    return [one for one in parser.found if one and not one.startswith(("#", "data:"))]


def check_page(page):
    """Check that a page is whole, fetches nothing, and is made for phones and for light and dark."""
    assert fetched(page) == []
    assert '<meta name="viewport" content="width=device-width' in page
    assert "color-scheme: light dark" in page
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; tests are skipped without one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra test")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def shown(browser, file, *, width=1300, scheme="light"):
    """Show a page with all figures drawn; it may neither fetch nor complain nor be wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    for figure in page.locator(".figure").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".plot svg, .plot canvas").wait_for(state="attached", timeout=10_000)
    yield page
    page.wait_for_timeout(100)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    context.close()


def violations(page):
    """Return what axe finds that is serious or critical, as (rule, first element)."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe, of the extra test")
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
