"""Case 63: warnings are errors; a dependency has a floor, a ceiling where it may break, and a version tested with."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
INSTALLED_BY_MAKE = ("demo", "report", "test", "docs", "dev")

BREAKS = {
    "bitsandbytes",
    "cryptography",
    "flwr",
    "gguf",
    "mlflow",
    "peft",
    "pydantic",
    "tensorboard",
    "transformers",
    "wandb",
}
"""Their next major version, or minor before 1, may break what is built on them."""

TYPES_AND_LINT = {"types-pyyaml", "types-psutil"}
"""Follow the packages that they describe."""

FOR_GRAPHICS_CARDS = ("cuda-", "nvidia-", "triton")
"""What PyTorch needs besides where it is built for graphics cards. It states their exact versions itself."""

STATED = [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for line in lines]


def pinned():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def operators(requirement):
    return {specifier.operator for specifier in requirement.specifier}


def needed(name, extras=frozenset(), seen=None):
    """Return the canonical names of all that an installed package needs here, itself included."""
    seen = {} if seen is None else seen
    key = canonicalize_name(name)
    if key in seen and extras <= seen[key]:
        return seen
    seen[key] = seen.get(key, frozenset()) | extras
    try:
        lines = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        return seen
    for requirement in map(Requirement, lines):
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted:
            needed(requirement.name, frozenset(requirement.extras), seen)
    return seen


def test_warnings_fail_the_tests():
    assert PROJECT["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    with pytest.raises(UserWarning):
        __import__("warnings").warn("anything", UserWarning, stacklevel=1)


@pytest.mark.parametrize("requirement", STATED, ids=str)
def test_a_dependency_has_a_floor_and_where_it_may_break_a_ceiling(requirement):
    name = canonicalize_name(requirement.name)
    if name in TYPES_AND_LINT:
        return
    assert operators(requirement) & {">=", "==", "~="}, "a floor"
    if name in BREAKS and not any(r.name == requirement.name and operators(r) & {"<", "=="} for r in STATED):
        pytest.fail(f"{requirement} needs a ceiling")


@pytest.mark.parametrize("requirement", STATED, ids=str)
def test_the_tested_version_is_within_the_bounds(requirement):
    version = pinned().get(canonicalize_name(requirement.name))
    assert version is None or requirement.specifier.contains(version)


def test_constraints_cover_whatever_make_installs():
    lines = [*PROJECT["project"]["dependencies"], *(line for extra in INSTALLED_BY_MAKE for line in EXTRAS[extra])]
    all_needed = {}
    for requirement in map(Requirement, lines):
        needed(requirement.name, frozenset(requirement.extras), all_needed)
    assert len(all_needed) > 40
    unpinned = all_needed.keys() - pinned().keys()
    assert sorted(name for name in unpinned if not name.startswith(FOR_GRAPHICS_CARDS)) == []
