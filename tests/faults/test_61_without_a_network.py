"""Case 61: the quick start needs no network and no home, and nothing tries to reach out.

An audit hook of the interpreter sees every socket that Python code connects, and every name that it looks up, whoever's
code it is. Where the system permits it, the process is also put where there is no network at all.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

PROGRAM = """
import json, socket, sys
tried = []

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, (str, bytes)) or address[0] in ("127.0.0.1", "::1", "localhost"):
            return
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0]
        if address in (None, "", "localhost"):
            return
    else:
        return
    tried.append([event, str(address)])
    raise OSError("no network in this test")

sys.addaudithook(hook)
from fedhello.cli import main as cli
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["fedhello", *words]
    try:
        cli.main()
    except SystemExit as ended:
        codes.append(ended.code)
for reach_out in (
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.socket().connect(("192.0.2.1", 80)),
):
    try:
        reach_out()
    except OSError:
        pass
print(json.dumps({"tried": tried, "codes": codes}))
"""

HEARD = [["socket.getaddrinfo", "example.org"], ["socket.connect", "('192.0.2.1', 80)"]]
"""What the program itself tries in the end, to show that the hook hears it."""

CACHES = ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "FEDHELLO_CACHE")
TOLD = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
"""Nobody needs to tell it to stay offline."""


def isolated():
    """Return the command that takes the network away from a process, or nothing where that is not permitted."""
    prefix = ["unshare", "--map-root-user", "--net"]
    able = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False)
    return prefix if able and able.returncode == 0 else []


def without_a_network(commands, folder):
    """Run commands in one process without network and home; return their exit codes and what they tried to reach."""
    environment = {name: value for name, value in os.environ.items() if name not in CACHES + TOLD}
    environment |= {"HOME": os.devnull}  # nothing can be written below, not even by root
    result = subprocess.run(
        [*isolated(), sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(["tiny.yaml"], id="tiny"),
        pytest.param(["train.rounds=1", "data.proxy=20"], id="demo", marks=pytest.mark.slow),
    ],
)
def test_from_run_to_export_without_a_network_and_a_home(start, workplace, tmp_path):
    run = str(tmp_path / "run")
    commands = [
        ["run", *start, f"run.out={tmp_path}", "run.name=run"],
        ["predict", run, "a text"],
        ["export", run],
    ]
    found = without_a_network(commands, workplace)
    assert found["codes"] == [0] * len(commands)
    assert found["tried"] == HEARD
