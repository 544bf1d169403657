"""The command line: thin wrappers that read arguments, call the library and print."""

import importlib.metadata
import os
import re
import signal
import sys
from errno import ENAMETOOLONG
from typing import Annotated

import typer

import fedhello as fh
from fedhello.cli import inventory, network, operations, results, run, watching
from fedhello.cli.arguments import INTERRUPTED
from fedhello.notes import show_notes, tell
from fedhello.streams import keep_going

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Fine-tune one foundation model across many clients that keep their data and have unequal budgets.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


keys = typer.Typer(help="Make certificates and keys for a federation on many machines.")

COMMANDS = (
    run.run, run.resume, network.server, network.client, run.init, run.plan, run.compare,
    watching.watch, watching.status, operations.backup, operations.restore,
    results.evaluate, results.predict, results.export, results.forget, results.clients, results.report,
    inventory.methods, inventory.models, inventory.doctor,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
keys.command("server")(network.server_keys)
keys.command("client")(network.client_key)
app.add_typer(keys, name="keys")


def _version(asked: bool) -> None:
    if asked:
        print(f"fedhello {importlib.metadata.version('fedhello')}")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Fine-tune one foundation model across many clients that keep their data and have unequal budgets."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; errors become one sentence on standard error and a numbered exit code."""
    keep_going()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that vanishes is an output that is closed
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # no progress bars in logs
    show_notes()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM ends a run like Ctrl-C
    try:
        _check_words(sys.argv[1:])
        # Without standalone mode, click returns the code of typer.Exit instead of raising it.
        code = app(standalone_mode=False)
    except fh.FedhelloError as error:
        _say(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        tell("interrupted", event="interrupted", exit_code=INTERRUPTED)
        sys.exit(INTERRUPTED)
    except Exception as error:
        about = _about_the_command(error)
        if about is None:
            raise
        _say(about)
        sys.exit(about.exit_code)
    sys.exit(code or 0)


def _say(error: fh.FedhelloError) -> None:
    tell(str(error), "error", event="error", error=type(error).__name__, exit_code=error.exit_code)


def _check_words(words: list[str]) -> None:
    """Refuse words that no file could hold, before a path is looked up or a folder made: bytes that are not UTF-8."""
    for word in words:
        odd = re.search("[\0\ud800-\udfff]", word)
        if odd:
            raise fh.ConfigError(
                f"expected the words of a command to be UTF-8 text without NUL; found U+{ord(odd[0]):04X}, which is no "
                f"character, in {word!r:.100}. Remove it; a file of such a name must be renamed."
            )


def _about_the_command(error: Exception) -> fh.FedhelloError | None:
    """Return what is wrong with what was typed: for click, or as a name that no file can have; None otherwise."""
    if isinstance(error, OSError) and error.errno == ENAMETOOLONG:
        return fh.RunFolderError(
            f"expected a path that a file can have; {str(error.strerror).lower()}: {str(error.filename)[:100]}…"
        )
    usage = getattr(error, "format_message", None)  # click's own usage errors
    return None if usage is None else fh.ConfigError(f"{usage()} See fedhello --help.")


if __name__ == "__main__":
    main()
