"""Everything public is documented, in its docstring and in the reference, with examples that do what they say."""

import dataclasses
import doctest
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest
import torch

import fedhello as fh
from fedhello.client.loss import LOSSES
from fedhello.data.partition import PARTITIONS
from fedhello.model.evaluation import METRICS

ROOT = Path(__file__).parents[1]
CLASSES = [name for name in fh.__all__ if inspect.isclass(getattr(fh, name))]
FUNCTIONS = [name for name in fh.__all__ if inspect.isfunction(getattr(fh, name))]
PARAMETER = re.compile(r"^ {4}\**(\w+)(?: \(.*\))?:", re.MULTILINE)


def section(of, name):
    """Return the names that a section of a docstring describes."""
    found = re.search(rf"^{name}:\n((?: {{4,}}.*\n|\n)*)", (inspect.getdoc(of) or "") + "\n", re.MULTILINE)
    return set(PARAMETER.findall(found[1])) if found else set()


def lacks_of_function(of, inherited=False):
    """Say what a function's docstring lacks; a method that overrides another has its parameters described there."""
    if not of.__doc__:
        return ["a docstring"]
    own = [name for name in inspect.signature(of).parameters if name not in ("self", "cls")]
    return [] if inherited else [name for name in own if name not in section(of, "Args")]


def members(of):
    """Yield the public methods and properties that a class defines, by name."""
    for name, value in vars(of).items():
        value = getattr(value, "__func__", value)  # of a class method
        is_field = name in getattr(of, "__dataclass_fields__", {}) or name in getattr(of, "model_fields", {})
        if not name.startswith("_") and not is_field and name != "model_config":
            yield name, value


def lacks_of_class(of):
    """Say what the docstrings of a class and its members lack."""
    lacks = [] if vars(of).get("__doc__") else ["a docstring"]
    fields = {field.name for field in dataclasses.fields(of)} if dataclasses.is_dataclass(of) else set()
    fields |= set(getattr(of, "model_fields", ()))
    lacks += sorted(fields - section(of, "Attributes"))
    for name, value in members(of):
        if inspect.isfunction(value):
            inherited = any(name in vars(base) for base in of.__mro__[1:])
            lacks += [f"{name}: {what}" for what in lacks_of_function(value, inherited)]
        elif not isinstance(value, (int, str)) and not getattr(value, "__doc__", None):
            lacks.append(f"{name}: a docstring")
    return lacks


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_a_public_name_is_documented_with_all_that_it_takes_and_has(name):
    of = getattr(fh, name)
    assert (lacks_of_class if inspect.isclass(of) else lacks_of_function)(of) == []


def test_a_public_name_is_in_the_reference_once():
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(fh.__all__)


def parts():
    """Return the classes that public values are made of, as the reference lists them."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. autoclass:: (fedhello\.[\w.]+)\.(\w+)$", page, re.MULTILINE)
    return {name: getattr(importlib.import_module(module), name) for module, name in listed}


def classes_in(annotation):
    """Yield the classes that an annotation names, at any depth."""
    for argument in typing.get_args(annotation):
        yield from classes_in(argument)
    if inspect.isclass(annotation):
        yield annotation


def test_what_a_plan_and_a_comparison_are_made_of_is_in_the_reference_and_documented():
    known = parts()
    assert {name: lacks for name, of in known.items() if (lacks := lacks_of_class(of))} == {}
    summary = typing.get_type_hints(fh.Comparison.__dict__["summary"].func)["return"]
    made_of, found = [fh.Plan, summary], set()
    while made_of:
        of = made_of.pop()
        found.add(of)
        made_of += {
            one
            for annotation in typing.get_type_hints(of).values()
            for one in classes_in(annotation)
            if dataclasses.is_dataclass(one) and one not in found
        }
    public = {getattr(fh, name) for name in CLASSES}
    assert found - public == set(known.values())


def example_of(name):
    of = getattr(fh, name)
    globs = {**vars(importlib.import_module(of.__module__)), "fh": fh}
    (found,) = doctest.DocTestFinder(recurse=False).find(of, name, globs=globs)
    return found


NO_EXAMPLE = {name for name in CLASSES if issubclass(getattr(fh, name), fh.FedhelloError)} - {"FedhelloError"}
"""Kinds of errors: their base shows how they are caught."""


@pytest.mark.parametrize("name", [name for name in (*FUNCTIONS, *CLASSES) if name not in NO_EXAMPLE])
def test_the_example_of_a_public_name_does_what_it_says(name, workplace, tmp_path, monkeypatch):
    for file in (file for file in workplace.iterdir() if file.name != "runs"):
        (tmp_path / file.name.replace("tiny.yaml", "my.yaml")).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    tables = [fh.METHODS, PARTITIONS.table, LOSSES.table, METRICS.table]
    before = [dict(table) for table in tables]
    example, said = example_of(name), []
    assert example.examples, "a short example"
    try:
        failed, _ = doctest.DocTestRunner().run(example, out=said.append)
    finally:
        for table, known in zip(tables, before, strict=True):
            table.clear()
            table.update(known)
    assert failed == 0, "".join(said)


WITH_EXAMPLES = [
    path.relative_to(ROOT / "src").with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted((ROOT / "src" / "fedhello").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_what_is_not_public_do_what_they_say(module):
    public = {f"{getattr(fh, name).__module__}.{name}" for name in (*FUNCTIONS, *CLASSES)}
    said = []
    for example in doctest.DocTestFinder().find(importlib.import_module(module)):
        if example.name not in public:
            assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_that_something_is_missing_is_seen():
    @dataclasses.dataclass
    class Half:
        """Half described.

        Attributes:
            a: One.
        """

        a: int
        b: torch.Tensor

        def method(self, c):
            """Do."""

    assert lacks_of_class(Half) == ["b", "method: c"]
