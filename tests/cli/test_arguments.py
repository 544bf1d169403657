from collections import defaultdict

import typer.main

from fedhello.cli.main import app


def options():
    """Every option of every command: name → what each command says of it."""
    found = defaultdict(dict)
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for option in command.params:
            if option.opts[0].startswith("--") and option.name != "help":
                found[option.opts[0]][command.name] = option.help
    return found


def test_an_option_of_many_commands_says_the_same_in_all():
    found = options()
    assert {"--json", "--quiet", "--reference", "--target", "--client", "--model"} <= found.keys()
    assert len(found["--json"]) > 5
    for name in ("--json", "--quiet", "--reference", "--target"):
        assert len(set(found[name].values())) == 1, name


def test_every_option_says_what_it_does():
    for name, said in options().items():
        for command, text in said.items():
            assert text, f"{name} of {command}"
