"""Commands on what runs left."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhello.cli.arguments import Head, Json, Model, Reference, Run, Target
from fedhello.cli.output import (
    _draw_report,
    present,
    refuse,
    restored,
    say_notes,
)
from fedhello.errors import (
    ConfigError,
    RunFolderError,
)


def evaluate(run: Run, as_json: Json = False) -> None:
    """Score a run's adapter, or the mean over its models, read back from its folder, on its validation and test set."""
    from fedhello.results.trained import rescore
    from fedhello.runs.folder import RunFolder

    result, notes = rescore(RunFolder(run))
    say_notes(notes)
    if as_json:
        print(json.dumps(result))
        return
    for part in ("test", "validation"):
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result[part].items())
        print(f"{part} {listed} on {result['samples'][part]} samples")


def predict(
    run: Run,
    texts: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Texts, image files or prompts.")],
    pair: Annotated[list[str] | None, typer.Option("--pair", help="The second text of each pair, in order.")] = None,
    model: Model = None,
    client: Head = None,
    as_json: Json = False,
) -> None:
    """Classify texts, pairs of texts or image files with a run's adapter, or let a language model answer prompts."""
    from fedhello.results.inference import infer

    trained = restored(run, model, client)
    results, notes = infer(trained.config, trained.labels, trained.model, texts, pair or ())
    say_notes(notes)
    if as_json:
        print(json.dumps(results))
        return
    for result in results:
        if "answer" in result:
            print(result["answer"])
        else:
            print(f"{result['label']}\t{result['probability']:.3f}\t{result['input']}")


def export(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="Where to; RUN/export if not given.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="adapter (if not given), merged or sentence-transformers.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The same as --format merged.")] = False,
    model: Model = None,
    client: Head = None,
) -> None:
    """Write a run's adapter, or the merged model, as files that PEFT, transformers or sentence-transformers load."""
    from fedhello.model import exports

    wanted, target = exports.asked_form(form, merge), out or run / "export"
    if target.exists():
        raise RunFolderError(f"expected a new folder to export to; {target} exists. Give another --out.")
    trained = restored(run, model, client)
    try:
        exports.export(trained.model, target, wanted, trained.config.data.max_length)
    except OSError as error:
        raise RunFolderError(f"expected to write {target}; {error.strerror or error}") from error
    print(target)


def forget(
    run: Run,
    client: Annotated[list[int], typer.Option("--client", help="Whom to forget; more than once for several.")],
    as_json: Json = False,
) -> None:
    """Take clients out of a finished run's solved head, exactly as if they had never taken part."""
    from fedhello.results.forget import forget as forget_clients
    from fedhello.runs.folder import RunFolder
    from fedhello.runs.runner import warn

    folder = RunFolder(run)
    before = folder.summary().get("final")
    summary = forget_clients(folder, sorted(set(client)), lambda line: warn(folder, line))
    _draw_report(folder)
    if as_json:
        print(json.dumps(summary))
        return
    print(
        f"forgotten: {', '.join(map(str, summary['forgotten']))}; test accuracy {before:.4f} → {summary['final']:.4f}"
    )


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of comparisons.")],
    picture: Annotated[Path | None, typer.Option("--picture", help="Write one run's picture alone, as SVG.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to put what several runs give.")] = None,
    target: Target = None,
    reference: Reference = None,
    as_json: Json = False,
) -> None:
    """Draw a run's learning curve and who trained which block; put several runs, or a comparison's, side by side."""
    from fedhello.report.page import check_out
    from fedhello.results import comparison as results
    from fedhello.runs.folder import RunFolder

    several = len(runs) > 1 or results.is_comparison(runs[0])
    if not several:
        given = {"--out": out, "--target": target, "--reference": reference, "--json": as_json or None}
        refuse({name for name, value in given.items() if value is not None}, "for several runs or a comparison")
        _report_one(RunFolder(runs[0]), picture)
        return
    refuse({"--picture"} if picture is not None else set(), "for one run")
    if out is None and len(runs) > 1:
        raise ConfigError("expected --out, the folder for what several runs give side by side; found none")
    folder = out or runs[0]
    check_out(folder)
    found, notes = results.collect(results.run_folders(runs))
    before = results.earlier(runs[0]) if len(runs) == 1 else {}
    if target is None and before.get("target_given"):
        target = before["target"]
    comparison = results.compare(
        found,
        reference=reference or before.get("reference"),
        target=target,
        notes=notes,
        tuning=before.get("tuning"),
    )
    present(comparison, folder, as_json, quiet=False)


def _report_one(folder: Any, picture: Path | None) -> None:
    from fedhello.config.stored import stored_config
    from fedhello.report.page import svg, write_report
    from fedhello.runs.files import write_whole

    stored_config(folder.path)
    if picture is None:
        print(write_report(folder))
    else:
        write_whole(picture, svg(folder) + "\n")
        print(picture)
