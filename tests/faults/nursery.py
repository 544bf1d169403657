"""A process that has imported everything and gives birth to the command line, so that each test need not wait for it.

It reads one question per line: ``{folder, words, dies_at}`` starts a command, ``{wait}`` waits for one. With
``dies_at: n`` the child kills itself (SIGKILL) in front of its n-th step of writing, an fsync or a rename; with
``dies_at: name`` in front of the rename that makes the file of that name. ``outputs`` says where descriptors 1 and 2
write, and ``encoding`` how, as Python would at its start.
"""

import importlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path


def main():
    for name in ("transformers.models.bert.modeling_bert", "fedhello.comparison.runs"):
        importlib.import_module(name)
    from fedhello.cli import main as cli

    sys.modules["vl_convert"] = None  # the page would take the most time
    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif "words" in question:
            answer = os.fork() or child(cli, question)
        else:
            answer = "ready"
        print(answer, flush=True)


def child(cli, question):
    os.chdir(question["folder"])
    null = os.open(os.devnull, os.O_RDONLY)
    places = {1: "out", 2: "err"} | {int(number): where for number, where in question.get("outputs", {}).items()}
    out, err = (opened(where) for where in places.values())
    for descriptor, standard in ((null, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    as_at_a_start(places, question.get("encoding"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["fedhello", *question["words"]]
    steps = itertools.count(1)

    def mortal(step):
        def wrapped(*arguments, **named):
            if question["dies_at"] in (next(steps), getattr(arguments[-1], "name", None)):
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments, **named)

        return wrapped

    if question.get("dies_at"):
        os.fsync = mortal(os.fsync)
        Path.replace, Path.rename = mortal(Path.replace), mortal(Path.rename)
    try:
        cli.main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(sys.exc_info()[1].code if isinstance(sys.exc_info()[1], SystemExit) else 70)


def as_at_a_start(places, encoding):
    """Give Python's streams the state that they have where it starts with such descriptors."""
    for standard, name in ((1, "stdout"), (2, "stderr")):
        if places[standard] is None:
            os.close(standard)
            setattr(sys, name, None)
        elif encoding:
            getattr(sys, name).reconfigure(encoding=encoding, errors="strict")


def opened(where):
    """Open a path to write to; ``broken`` is a pipe whose reader has left, None is opened and closed later."""
    if where == "broken":
        reader, writer = os.pipe()
        os.close(reader)
        return writer
    return os.open(where or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY)


if __name__ == "__main__":
    main()
