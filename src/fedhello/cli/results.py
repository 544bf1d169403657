"""Commands on finished runs."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import fedhello as fh
from fedhello.cli.arguments import (
    ChangedTokenizer,
    Encoding,
    File,
    Head,
    Image,
    Json,
    Label,
    Model,
    NewTable,
    PerClass,
    PerClient,
    Prompt,
    Reference,
    Response,
    Run,
    Target,
    Texts,
    Top,
)
from fedhello.cli.output import draw_report, named, present, refuse, say_summary

SHOWN_LABELS = 10
"""The most labels that ``predict`` lists."""


def evaluate(
    run: Run,
    data: Annotated[str | None, typer.Option("--data", help="Other labelled data: a file, a folder or a name.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split of --data.")] = None,
    encoding: Encoding = None,
    text: Texts = None,
    label: Label = None,
    image: Image = None,
    prompt: Prompt = None,
    response: Response = None,
    model: Model = None,
    client: Head = None,
    per_class: PerClass = False,
    per_client: PerClient = False,
    changed_data: ChangedTokenizer = False,
    as_json: Json = False,
) -> None:
    """Evaluate a run's adapter, or the mean over its models, on its validation and test set, or on other data."""
    from fedhello.results.trained import scores_listed

    columns = named(text=text, label=label, image=image, prompt=prompt, response=response) or None
    trained = fh.load_run(run)
    found = trained.evaluate(
        data,
        split=split,
        columns=columns,
        encoding=encoding,
        model=model,
        client=client,
        changed_data=changed_data,
    )
    result = scores_listed({"data": found}) if isinstance(found, fh.Evaluation) else found.to_dict()
    scores = found if isinstance(found, fh.Evaluation) else found.test
    clients = trained.client_scores(scores) if per_client else None
    matrix = _matrix(scores) if per_class else None
    if as_json:
        more = ({} if matrix is None else matrix.to_dict()) | named(per_client=clients and clients.to_dict())
        print(json.dumps(result | more))
        return
    for part, samples in reversed(result["samples"].items()):
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result[part].items())
        print(f"{part} {listed} on {samples} samples")
    _show_more(matrix, clients)


def _matrix(scores: "fh.Evaluation") -> "fh.ConfusionMatrix":
    """Return the confusion matrix of some scores."""
    from fedhello.runs.confusion import NO_MATRIX

    if scores.confusion is None:
        raise fh.ConfigError(NO_MATRIX)
    return scores.confusion


def _show_more(matrix: "fh.ConfusionMatrix | None", clients: "fh.ClientScores | None") -> None:
    """Print scores by class and by client."""
    from fedhello.report.scores import class_tables, client_lines, client_table

    console = Console(markup=False, highlight=False)
    for table in () if matrix is None else class_tables(matrix):
        console.print(table)
    if clients is not None:
        console.print(client_table(clients))
        for line in client_lines(clients):
            console.print(line, soft_wrap=True)


def predict(
    run: Run,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[INPUT]...", help="Texts, image files or prompts; - for lines.")
    ] = None,
    pair: Annotated[list[str] | None, typer.Option("--pair", help="The second text of each pair, in order.")] = None,
    file: File = None,
    out: NewTable = None,
    text: Texts = None,
    image: Image = None,
    prompt: Prompt = None,
    encoding: Encoding = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Print those of all classes.")] = False,
    top: Top = None,
    model: Model = None,
    client: Head = None,
    changed_data: ChangedTokenizer = False,
    as_json: Json = False,
) -> None:
    """Classify texts, pairs of texts or image files with a run's adapter, or let a language model answer prompts.

    With --file, each row of a table is written with its prediction, in batches, to --out or standard output.
    """
    if file is None and (texts == ["-"] or (not texts and sys.stdin and not sys.stdin.isatty())):
        file, texts = "-", None
    trained = fh.load_run(run)
    columns = named(text=text, image=image, prompt=prompt)
    if file is not None:
        if texts or pair:
            raise fh.ConfigError(f"expected inputs or --file; found both, {(texts or pair or [''])[0]!r} and {file}")
        how = {"columns": columns, "encoding": encoding, "probabilities": probabilities, "top": top}
        which = {"model": model, "client": client, "changed_data": changed_data}
        _predict_rows(trained, file, out, {**how, **which, "json_lines": as_json})
        return
    refuse(named(out=out, encoding=encoding, **columns), "for --file")
    if not texts:
        raise fh.ConfigError("expected inputs to predict, or --file; found none. See fedhello predict --help.")
    _refuse_files(trained, texts)
    found = trained.predict(
        texts,
        pairs=pair or (),
        probabilities=probabilities,
        top=top,
        model=model,
        client=client,
        changed_data=changed_data,
    )
    if as_json:
        print(json.dumps([named(**asdict(one)) for one in found]))
        return
    if found[0].label is not None:
        names = trained.summary.labels
        listed = ", ".join(names[:SHOWN_LABELS]) + (
            f" and {len(names) - SHOWN_LABELS} more" if len(names) > SHOWN_LABELS else ""
        )
        print(f"note: labels are those that {run} was trained with: {listed}", file=sys.stderr)
    for one in found:
        print(_line(one))


def _line(one: "fh.Prediction") -> str:
    """Return a prediction as a line."""
    if one.answer is not None:
        return one.answer
    more = {**{k: p for k, p in (one.top or {}).items() if k != one.label}, **(one.probabilities or {})}
    others = "".join(f"\t{label} {p:.3f}" for label, p in more.items())
    return f"{one.label}\t{one.probability:.3f}\t{one.input}{others}"


def _refuse_files(trained: "fh.TrainedRun", inputs: list[str]) -> None:
    """Refuse the names of files where a model takes texts: they would be classified themselves."""
    from fedhello.model.sources import IMAGES

    if trained.summary.model_kind == IMAGES:
        return
    for one in inputs:
        if _is_file(one):
            raise fh.ConfigError(
                f"expected texts, which this run's model takes; {one} is a file, whose name would be classified. "
                f"Predict its rows: --file {one}; or pipe the text: echo '{one}' | fedhello predict {trained.path}"
            )


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a name can be
        return False


def _predict_rows(trained: "fh.TrainedRun", file: str, out: Path | None, how: dict[str, Any]) -> None:
    """Predict the rows of a file, or the lines of standard input, with a progress bar on a terminal."""
    source = sys.stdin if file == "-" else Path(file)
    target = sys.stdout if out is None else out
    console = Console(stderr=True)
    shown = console.is_terminal and (out is not None or not sys.stdout.isatty())
    columns = (TextColumn("{task.completed:.0%}"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("0 rows", total=1.0)

        def told(rows: int, share: float | None) -> None:
            bar.update(task, completed=share or 0.0, total=None if share is None else 1.0, description=f"{rows:,} rows")

        rows = trained.predict_file(source, target, told=told, **how)
    if out is not None:
        print(f"wrote {out}: {rows} rows", file=sys.stderr)


def export(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; RUN/export if not given.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="adapter (if not given), merged or sentence-transformers.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The same as --format merged.")] = False,
    base: Annotated[bool, typer.Option("--base", help="Write the adapter's base beside it, to load offline.")] = False,
    model: Model = None,
    client: Head = None,
    changed_data: ChangedTokenizer = False,
) -> None:
    """Write a run's adapter, or the merged model, as files that PEFT, transformers or sentence-transformers load."""
    written = fh.load_run(run).export(
        out, form=form, merge=merge, base=base, model=model, client=client, changed_data=changed_data
    )
    print(written)


def forget(
    run: Run,
    client: Annotated[list[int], typer.Option("--client", help="A client to forget; repeatable.")],
    as_json: Json = False,
) -> None:
    """Remove clients from a finished run's solved head, exactly as if they had never taken part."""
    trained = fh.load_run(run)
    before = trained.summary
    summary = trained.forget(client)
    draw_report(trained)
    if as_json:
        say_summary(summary)
        return
    ids = ", ".join(map(str, summary.forgotten))
    print(f"forgotten: {ids}; test accuracy {before.final:.4f} → {summary.final:.4f}")


def clients(run: Run, as_json: Json = False) -> None:
    """Tell how many clients of which tier and with how many samples a run has; with --json, list them all."""
    found = fh.TrainedRun(run).clients
    if as_json:
        print(json.dumps(found))
        return
    samples: dict[int, list[int]] = {}
    for client in found:
        samples.setdefault(client["tier"], []).append(client["samples"])
    for tier, sizes in sorted(samples.items()):
        print(f"tier {tier}: {len(sizes)} clients with {min(sizes)} to {max(sizes)} samples, {sum(sizes)} in all")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of comparisons.")],
    picture: Annotated[Path | None, typer.Option("--picture", help="Write only one run's figure, as SVG.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the comparison of several runs.")] = None,
    target: Target = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Write a run's report with its learning curve and trained blocks; or compare several runs."""
    from fedhello.results.comparison import is_comparison

    if len(runs) == 1 and not is_comparison(runs[0]):
        refuse(
            named(out=out, target=target, reference=reference, json=as_json or None), "for several runs or a comparison"
        )
        print(fh.write_report(runs[0], picture=picture))
        return
    refuse(named(picture=picture), "for one run")
    if out is None and len(runs) > 1:
        raise fh.ConfigError("expected --out, the folder for what several runs give side by side; found none")
    found = fh.load_comparison(runs, reference=reference, target=target)
    present(found, as_json, out=out or runs[0])
