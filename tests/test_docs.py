"""What the documentation shows is what the code does."""

import contextlib
import doctest
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import fedhello as fh
from fedhello import errors
from fedhello.config.load import dump_config, load_config
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext, AllocationContext
from fedhello.types import Adapter, Budget, Client, Federation, Update

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


WITH_PYTHON = [page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page, "python")]

STOPPED = """
import fedhello
fedhello.run("my.yaml", {"run.name": "mine"}, callbacks=[fedhello.EarlyStopping(1, min_delta=1)])
"""
APP = """
from flwr.clientapp import ClientApp
app = ClientApp()
"""
GIVEN = {"docs/how-to/resume-a-run.md": STOPPED, "docs/how-to/use-in-your-flower-app.md": APP}
"""What a page takes to have happened before, or to be there."""


def test_the_defaults_in_the_reference_are_the_defaults():
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    assert dump_config(load_config()).strip() in page


def test_every_exit_code_is_documented():
    page = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    for kind in set(kinds) - {errors.FedhelloError}:
        assert re.search(rf"\| *{kind.exit_code} *\|.*`{kind.__name__}`", page), kind


def test_functions_that_the_paper_page_names_exist():
    for name in ("from-the-paper-to-the-code.md", "differences-from-the-published-code.md"):
        page = (ROOT / "docs" / "explanation" / name).read_text(encoding="utf-8")
        named = re.findall(r"`((?:\w+/)?\w+\.py)` `(\w+)", page)
        assert named
        for file, function in named:
            source = (ROOT / "src" / "fedhello" / file).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(def|class) {function}\b|^{function}\b", source, re.MULTILINE), (file, function)


@pytest.fixture
def reader(workplace, tmp_path, monkeypatch):
    """The working directory of somebody who reads: a model, texts and a configuration, under the names of all pages."""
    for file in (file for file in workplace.iterdir() if file.name != "runs"):
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "my.yaml").symlink_to(workplace / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)
    sys.modules.pop("mine", None)  # a page's own module


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs(page, reader, capsys):
    if "flwr" in GIVEN.get(page, ""):
        pytest.importorskip("flwr", reason="needs the extra flower")
    given = {}
    exec(GIVEN.get(page, ""), given)
    for block in blocks(ROOT / page, "python"):
        if block.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, {}, page, page, 0)
            assert doctest.DocTestRunner().run(test).failed == 0, capsys.readouterr().out
        else:
            exec(compile(block, page, "exec"), dict(given))


def test_the_readme_is_short_and_its_yaml_is_a_configuration():
    readme = ROOT / "README.md"
    (python,), (configuration,) = blocks(readme, "python"), blocks(readme, "yaml")
    assert fh.load_config(yaml.safe_load(configuration)).data.clients == 10
    assert sum(1 for line in python.splitlines() if line) <= 12
    assert configuration.count("\n") <= 10
    assert len(readme.read_text(encoding="utf-8").splitlines()) < 100


def test_the_version_stands_in_one_place_and_its_changes_are_told():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(rf"^## {re.escape(version)}.*?(?=^## )", changes, re.DOTALL | re.MULTILINE)
    assert re.findall(r"^### (\w+)", newest[0], re.MULTILINE) == ["Breaking", "Added", "Fixed"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version


def test_the_how_to_adds_a_strategy(monkeypatch):
    page = (ROOT / "docs" / "how-to" / "add-your-own-method.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert code.count("\n") <= 40
    monkeypatch.setattr("fedhello.methods.METHODS", METHODS.copy())
    exec(compile(code, "how-to", "exec"), {})
    from fedhello import methods

    client = Client(0, 0, Budget(2), samples=1)
    world = Federation((client,), (Budget(2),), num_blocks=6, clients_per_round=1, seed=0)
    bound = methods.METHODS["every-other"].bind(first=1)
    assert bound.allocate(AllocationContext(client, world, 0)).blocks == (1, 3)
    before = Adapter({"x": torch.zeros(1)}, {"x": 1})
    updates = [Update(k, 0, 1, {"x": torch.full((1,), float(k))}, {"loss": float(k)}) for k in (1, 3)]
    after = bound.aggregate(AggregationContext(before, world, 0, {}), updates)
    assert float(after.adapter.tensors["x"]) == 2.5  # (1·1 + 3·3)/4


def test_every_method_and_option_is_in_the_reference():
    folder = ROOT / "docs" / "reference"
    methods = (folder / "methods.md").read_text(encoding="utf-8")
    configuration = (folder / "configuration.md").read_text(encoding="utf-8")
    for name, method in METHODS.items():
        assert re.search(rf"^\| `{name}` \|", methods, re.MULTILINE), name
        for option in method.options.model_fields:
            assert re.search(rf"`(method\.)?{option}`", configuration), (name, option)


def test_every_method_has_its_maths():
    page = (ROOT / "docs" / "explanation" / "the-maths-of-the-methods.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^### (.+)$", page, re.MULTILINE)) == sorted(METHODS)


def test_the_glossary_names_what_is_in_the_code():
    page = (ROOT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    named = re.findall(r"\| `([\w.]+)` \|$", page, re.MULTILINE)
    assert len(named) > 25
    for name in named:
        found, parts = None, name.split(".")
        for i in range(len(parts), 0, -1):
            with contextlib.suppress(ModuleNotFoundError):
                found = importlib.import_module(".".join(["fedhello", *parts[:i]]))
                break
        for part in parts[i:]:
            assert hasattr(found, part) or part in getattr(found, "__dataclass_fields__", {}), name
            found = getattr(found, part, None)


def test_local_links_lead_somewhere():
    for page in [
        *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
        *PAGES,
        *(ROOT / "docs").rglob("*.ipynb"),
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
