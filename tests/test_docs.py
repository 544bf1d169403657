"""What the documentation shows is what the code does."""

import re
from pathlib import Path

import torch

from fedhello import errors
from fedhello.config.load import dump_config, load_config
from fedhello.methods import METHODS
from fedhello.strategy import AggregationContext, AllocationContext
from fedhello.types import Adapter, Budget, Client, Federation, Update

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
        named = re.findall(r"`((?:\w+/)?\w+\.py)` `(\w+)", page)
        assert named
        for file, function in named:
            source = (ROOT / "src" / "fedhello" / file).read_text(encoding="utf-8")
            assert re.search(rf"^\s*(def|class) {function}\b|^{function}\b", source, re.MULTILINE), (file, function)


def test_the_how_to_adds_a_strategy(monkeypatch):
    page = (ROOT / "docs" / "how-to" / "add-your-own-method.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert code.count("\n") <= 40
    monkeypatch.setattr("fedhello.methods.METHODS", METHODS.copy())
    exec(compile(code, "how-to", "exec"), {})
    from fedhello import methods

    client = Client(0, 0, Budget(2), samples=1)
    world = Federation((client,), (Budget(2),), blocks=6, clients_per_round=1, seed=0)
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


def test_local_links_lead_somewhere():
    for page in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page, target)
