"""The site is built without a warning, holds all public names, and reads without a network; its notebooks run."""

import inspect
import json
import re
import resource
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import fedhello as fh

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


class Fetched(HTMLParser):
    """What a page makes a browser fetch, and the ids that links may lead to."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.links, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag in ("img", "script", "iframe", "source"):
            self.addresses.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.addresses.append(given.get("href") or "")
        elif tag == "a":
            self.links.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    words = ["--quiet", "--fail-on-warning", "--keep-going", "-d", str(out / "doctrees"), str(DOCS), str(out / "html")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


def public_names():
    """Yield the public names, and the fields, methods and properties of those that are classes."""
    for name in fh.__all__:
        of = getattr(fh, name)
        yield name
        if inspect.isclass(of) and of.__name__ == name:  # another name of a class is described under its first
            own = {k: v for k, v in vars(of).items() if inspect.isfunction(v) or isinstance(v, (property, classmethod))}
            fields = {**getattr(of, "__dataclass_fields__", {}), **getattr(of, "model_fields", {})}
            yield from (f"{name}.{member}" for member in (own | fields) if not member.startswith("_"))


def test_every_public_name_is_on_the_site(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    names = set(public_names())
    assert len(names) > 250
    assert {name for name in names if f'id="fedhello.{name}"' not in page} == set()


def test_no_page_fetches_anything_from_elsewhere_and_no_link_leads_nowhere(site):
    pages = {path: Fetched(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 40
    for path, page in pages.items():
        assert [address for address in page.addresses if re.match(r"(https?:)?//", address)] == [], path
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", link) or not link:
                continue
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), (path, link)
            if anchor and file in pages:
                assert anchor in pages[file].ids, (path, link)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text(encoding="utf-8")), sheet


def test_formulas_are_written_out(site):
    page = (site / "explanation" / "the-maths-of-the-methods.html").read_text(encoding="utf-8")
    formulas = re.findall(r"<math.*?</math>", page, re.DOTALL)
    assert len(formulas) > 100
    assert not any("\\" in formula for formula in formulas)


@pytest.fixture(scope="module")
def executed():
    spec = spec_from_file_location("execute", DOCS / "execute.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executed


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_notebook_runs_and_is_stored_with_what_it_prints(notebook, executed, tmp_path):
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    anew = executed(notebook, str(tmp_path))
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert spent.ru_utime + spent.ru_stime - begin.ru_utime - begin.ru_stime < 240  # two minutes of two cores
    stored = json.loads(notebook.read_text(encoding="utf-8"))
    for new, old in zip(anew.cells, stored["cells"], strict=True):
        kinds = [output["output_type"] for output in old.get("outputs", [])]
        assert kinds == [output["output_type"] for output in new.get("outputs", [])]
        assert not re.search(r"/(home|root|tmp|work)/", json.dumps(old.get("outputs", [])))
