"""What is in deploy/ holds together: image, compose file and systemd units, and the page about them."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from fedhello import errors
from fedhello.cli.main import app

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "how-to" / "operate-a-federation.md").read_text(encoding="utf-8")
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
CODES = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}

BESIDE = 1000
"""Megabytes that a client takes beside its budget."""


def options_of(words):
    """Return the options of a command line of fedhello, after checking that the command has them."""
    command = get_command(app).commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    given = [word for word in words[1:] if word.startswith("--")]
    assert set(given) <= known, set(given) - known
    return {option: words[words.index(option) + 1] for option in given if words.index(option) + 1 < len(words)}


def steps():
    """Return the instructions of the image file, stage by stage."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = [[]]
    for line in lines:
        if line.startswith("FROM"):
            found.append([])
        found[-1].append(line.split(" ", 1))
    return found


def test_the_image_has_two_stages_and_the_last_one_neither_tools_nor_privileges():
    arguments, build, last = steps()
    assert arguments == [["ARG", "BASE=docker.io/library/python:3.11-slim"]]
    assert all("pip" not in rest and "apt" not in rest for _, rest in last)
    assert ["USER", "10001:10001"] in last
    assert last.index(["USER", "10001:10001"]) > max(i for i, (what, _) in enumerate(last) if what == "RUN")
    assert next(rest for what, rest in last if what == "HEALTHCHECK").count("/healthz") == 1
    assert all("constraints.txt" in rest for what, rest in build if what == "RUN" and "pip" in rest)
    copied = [word for what, rest in build if what == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_a_linter_finds_nothing_in_the_image_file():
    subprocess.run(["hadolint", DEPLOY / "Containerfile"], check=True)


def test_services_are_confined_and_have_the_memory_that_their_budgets_need():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"keys", "server", "berlin", "madrid", "paris"}
    assert compose["networks"] == {"federation": {"internal": True}}
    ports = set()
    for name, service in services.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and "mem_limit" in service, name
        assert service["security_opt"] == ["no-new-privileges:true"] and "ports" not in service
        assert all(volume.split(":")[0] in compose["volumes"] for volume in service["volumes"])
    given = options_of([word for word in shlex.split(services["server"]["command"]) if "=" not in word])
    assert given["--metrics"].endswith(":9464") and not services["server"].get("healthcheck")
    for name in ("berlin", "madrid", "paris"):
        given = options_of(shlex.split(services[name]["command"]))
        budget = int(given["--memory"].removesuffix("MB"))
        assert int(services[name]["mem_limit"].removesuffix("m")) == budget + BESIDE
        assert (given["--key"], given["--server"]) == (f"keys/{name}", "server:8000")
        assert services[name]["volumes"] == [f"{name}:/var/lib/fedhello/keys:ro"], "its own key, and no other's"
        ports.add(given["--part"])
    assert ports == {"0", "1", "2"}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_what_may_pass_by_itself_again_and_nothing_else(unit):
    text = unit.read_text()
    value = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    words = shlex.split(value["ExecStart"].replace("$OPTIONS", ""))
    assert words[0] == "/opt/fedhello/bin/fedhello"
    options_of(words[1:])
    given_up = {int(code) for code in value["RestartPreventExitStatus"].split()}
    assert given_up < CODES
    tried = CODES - given_up
    assert tried - {12} == {1, 8, 9, 10, 11}  # a client runs no callback
    assert value["SuccessExitStatus"] == "130 143" and value["Restart"] == "on-failure"
    assert value["NoNewPrivileges"] == "yes" and value["ProtectSystem"] == "strict"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path):
    for unit in UNITS:
        text = unit.read_text().replace("/opt/fedhello/bin/fedhello", "/bin/true")  # which must exist
        (tmp_path / unit.name.replace("@.", "@berlin.")).write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.iterdir()], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_the_page_names_every_exit_code_and_the_figures_that_there_are(tmp_path):
    pytest.importorskip("prometheus_client", reason="needs the extra flower")
    from fedhello.network.monitor import Monitor

    table = PAGE[PAGE.index("## Exit codes") : PAGE.index("## Add and remove clients")]
    assert {int(code) for code in re.findall(r"^\| (\d+)", table, re.MULTILINE)} >= CODES
    there = {sample.name for family in Monitor(tmp_path).collect() for sample in family.samples}
    later = {"clients_asked", "clients_late", "memory_bytes", "last_round_seconds", "rounds", "clients", "round"}
    later |= {"clients_connected", "validation_accuracy", "best_validation_accuracy", "test_accuracy"}
    named = set(re.findall(r"\bfedhello_\w+", PAGE))
    assert named <= there | {f"fedhello_{name}" for name in later}
    assert there <= named
