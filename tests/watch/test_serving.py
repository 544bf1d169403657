"""The page beside a run: a process of its own that shows what the run says, and ends with it."""

import json
import time
import urllib.request

import psutil
import pytest

from fedhello.errors import ConfigError
from fedhello.watch.serving import page_beside, serving


def told(lines):
    (line,) = lines
    return line.removeprefix("watch this run: ")


def statuses(url):
    with urllib.request.urlopen(url.replace("/?", "/events?"), timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


def test_a_page_beside_a_run_has_an_address_at_once_and_ends_with_it(tmp_path):
    lines = []
    before = time.monotonic()
    with page_beside(tmp_path / "mine", lines.append) as tell:
        url = told(lines)
        assert time.monotonic() - before < 1  # its process is only being started
        tell("loading\nthe model …")
        for status in statuses(url):
            if status["said"]:
                break
        assert status == {"phase": "loading", "said": "loading the model …"}
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=5)


def test_a_page_whose_process_is_killed_does_not_disturb_the_run(tmp_path):
    with page_beside(tmp_path / "mine", lambda line: None) as tell:
        page = None
        while page is None:  # a process that has just begun has no command for a moment
            found = [one for one in psutil.Process().children() if str(tmp_path / "mine") in " ".join(one.cmdline())]
            page = found[0] if found else None
        page.kill()
        for _ in range(100):
            tell("x" * 10_000)


def test_a_port_can_be_asked_for_and_two_cannot_have_it(tmp_path):
    with (
        serving(tmp_path) as one,
        pytest.raises(ConfigError, match="expected a free port"),
        serving(tmp_path, one.server_port),
    ):
        pass
    with serving(tmp_path, one.server_port) as again:
        assert again.server_port == one.server_port
        assert again.token != one.token
