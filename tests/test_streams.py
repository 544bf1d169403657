"""Standard streams to which writing never fails."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from fedhello.streams import INSTEAD, keep_going, show

CODE = "from fedhello.streams import keep_going; keep_going(); import sys; {}"


def run(code, **how):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    return subprocess.run([sys.executable, "-c", CODE.format(code)], check=False, timeout=60, **how)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_signs_that_an_output_lacks_are_replaced(encoding):
    text = "●·… ä 梨 \udcff"
    found = run(f"print({text!r})", env={**os.environ, "PYTHONIOENCODING": encoding}).stdout.decode(encoding)
    right = {"ascii": "#.... ? ? ?", "latin-1": "#·... ä ? ?", "utf-8": "●·… ä 梨 ?"}
    assert found == right[encoding] + "\n"
    assert all(instead.isascii() for instead in INSTEAD.values())


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    child = subprocess.Popen([sys.executable, "-c", CODE.format("print('x' * 300_000)")], stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert len(file.read()) == 300_001
    assert child.wait(60) == 0


def test_a_closed_output_gives_no_file_its_number():
    code = "print('lost'); sys.stdout.flush(); import os; f = open(os.devnull); print(f.fileno(), file=sys.stderr)"
    found = run(code, stdout=None, preexec_fn=lambda: os.close(1))
    assert (found.returncode, int(found.stderr) > 2) == (0, True)


def test_what_a_program_has_put_in_the_place_of_a_stream_stays(monkeypatch):
    own = io.StringIO()
    monkeypatch.setattr(sys, "stdout", own)
    monkeypatch.setattr(sys, "stderr", own)
    keep_going()
    assert sys.stdout is sys.stderr is own


def test_a_console_that_cannot_be_written_is_quiet_from_then_on_and_nothing_else_is(capfd):
    class Torn:
        def __init__(self, error):
            self.error = error

        def write(self, text):
            raise self.error

    for error in (BrokenPipeError(), OSError(28, "full"), UnicodeEncodeError("ascii", "…", 0, 1, "no")):
        console = Console(file=Torn(error))
        show(console, "lost")
        assert console.quiet
        print("shown")  # elsewhere, by the program
        assert capfd.readouterr().out == "shown\n"
    with pytest.raises(KeyError):
        show(Console(file=Torn(KeyError())), "lost")
