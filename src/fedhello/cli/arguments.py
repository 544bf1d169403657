"""Arguments that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fedhello.notes import show_notes

INTERRUPTED = 130


Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A YAML file, and overrides such as train.rounds=5; the last of a key wins.",
    ),
]


class LogFormats(StrEnum):
    """How a command speaks on standard error."""

    TEXT = "text"
    JSON = "json"


LogFormat = Annotated[
    LogFormats | None,
    typer.Option(
        "--log-format",
        help="How to speak on standard error: text, or json, one object a line.",
        is_eager=True,  # before other options are found to be wrong
        callback=lambda value: None if value is None else show_notes(value),
    ),
]


Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help="HOST:PORT for /healthz and /metrics, such as 127.0.0.1:9464."),
]


Json = Annotated[bool, typer.Option("--json", help="Print only the result, as JSON, on standard output.")]


Head = Annotated[int | None, typer.Option("--client", help="The client whose head is used, if clients keep their own.")]


Model = Annotated[
    str | None, typer.Option("--model", help="The model, such as client-3, of a run with several models.")
]


Texts = Annotated[list[str] | None, typer.Option("--text", help="Column of texts; twice for pairs.")]


Label = Annotated[str | None, typer.Option("--label", help="Column of classes.")]


Image = Annotated[str | None, typer.Option("--image", help="Column of images.")]


Prompt = Annotated[str | None, typer.Option("--prompt", help="Column of prompts, or a template.")]


Response = Annotated[str | None, typer.Option("--response", help="Column of responses, or a template.")]


Encoding = Annotated[
    str | None, typer.Option("--encoding", help="Of tables that are not UTF-8, such as cp1252 of Excel.")
]


Consent = Annotated[Path | None, typer.Option("--consent", help="YAML file with all that you consent to.")]


Labels = Annotated[list[str] | None, typer.Option("--labels", help="Label that may be used; repeatable.")]


Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the data per round at most.")]


Download = Annotated[str | None, typer.Option("--download", help="Bytes of a message at most, such as 1GB.")]


Tasks = Annotated[list[str] | None, typer.Option("--tasks", help="classification, instructions or images; repeatable.")]


Models = Annotated[
    list[str] | None,
    typer.Option("--models", help="Pattern of models that a server may name, and that are downloaded; repeatable."),
]


Statistics = Annotated[
    bool | None, typer.Option("--statistics/--no-statistics", help="Whether head statistics may leave.")
]


LeastPerClass = Annotated[
    int | None, typer.Option("--least-per-class", help="Samples of a class in head statistics at least.")
]


Scores = Annotated[bool | None, typer.Option("--scores/--no-scores", help="Whether Fisher scores may leave.")]


Epsilon = Annotated[
    float | None, typer.Option("--epsilon", help="Take part in runs under differential privacy of at most this ε only.")
]


OwnLedger = Annotated[
    Path | None, typer.Option("--ledger", help="File that counts what leaves of single samples over all runs.")
]


Secure = Annotated[bool | None, typer.Option("--secure/--no-secure", help="Take part in runs with secure sums only.")]


ChangedData = Annotated[
    bool, typer.Option("--changed-data", help="Go on although the data are not those that the run started with.")
]


ChangedTokenizer = Annotated[
    bool, typer.Option("--changed-data", help="Go on although the tokenizer or image processor is not the run's.")
]


Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]


Quiet = Annotated[bool, typer.Option("--quiet", help="Show nothing but errors.")]


Target = Annotated[
    float | None,
    typer.Option(
        "--target", help="Test accuracy until which costs are counted; 98 % of the best method's if not given."
    ),
]


Reference = Annotated[
    str | None, typer.Option("--reference", help="The method that others are compared with; the first if not given.")
]


PerClass = Annotated[bool, typer.Option("--per-class", help="Also scores of each class, and what is confused.")]


PerClient = Annotated[bool, typer.Option("--per-client", help="Also each client's accuracy, and the worst decile.")]


File = Annotated[
    str | None,
    typer.Option("--file", help="A table whose rows are predicted; - reads one text a line from standard input."),
]


NewTable = Annotated[
    Path | None,
    typer.Option("--out", help="A new .csv, .tsv or .jsonl for the rows of --file; standard output if not."),
]


Top = Annotated[int | None, typer.Option("--top", help="Print so many of the likeliest classes.", min=1)]
