"""What the documentation shows is what the code does."""

import re
from pathlib import Path

from fedhello import errors
from fedhello.methods import METHODS
from fedhello.run.config import dump_config, load_config
from fedhello.types import Budget, Client, Federation, Situation

ROOT = Path(__file__).parents[1]


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
        named = re.findall(r"`((?:allocation|aggregation|client|data|engine|model|run)/\w+\.py)` `(\w+)", page)
        assert named
        for file, function in named:
            source = (ROOT / "src" / "fedhello" / file).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(def|class) {function}\b|^{function}\b", source, re.MULTILINE), (file, function)


def test_the_how_to_adds_a_strategy(monkeypatch):
    page = (ROOT / "docs" / "how-to" / "add-an-allocation-strategy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert code.count("\n") <= 40
    monkeypatch.setattr("fedhello.methods.METHODS", METHODS.copy())
    exec(compile(code, "how-to", "exec"), {})
    from fedhello import methods

    client = Client(0, 0, Budget(2), samples=1)
    world = Federation((client,), (Budget(2),), blocks=6, clients_per_round=1, seed=0)
    bound = methods.METHODS["every-other"].bind(first=1)
    assert bound.allocate(Situation(client, world, 0)).blocks == (1, 3)


def test_local_links_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
