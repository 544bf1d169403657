"""Commands on finished runs."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import fedhello as fh
from fedhello.cli.arguments import (
    ChangedTokenizer,
    Encoding,
    Head,
    Image,
    Json,
    Label,
    Model,
    Prompt,
    Reference,
    Response,
    Run,
    Target,
    Texts,
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
    changed_data: ChangedTokenizer = False,
    as_json: Json = False,
) -> None:
    """Evaluate a run's adapter, or the mean over its models, on its validation and test set, or on other data."""
    from fedhello.results.trained import scores_listed

    columns = named(text=text, label=label, image=image, prompt=prompt, response=response) or None
    found = fh.load_run(run).evaluate(
        data,
        split=split,
        columns=columns,
        encoding=encoding,
        model=model,
        client=client,
        changed_data=changed_data,
    )
    result = scores_listed({"data": found}) if isinstance(found, fh.Evaluation) else found.to_dict()
    if as_json:
        print(json.dumps(result))
        return
    for part, samples in reversed(result["samples"].items()):
        listed = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result[part].items())
        print(f"{part} {listed} on {samples} samples")


def predict(
    run: Run,
    texts: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Texts, image files or prompts.")],
    pair: Annotated[list[str] | None, typer.Option("--pair", help="The second text of each pair, in order.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Print those of all classes.")] = False,
    model: Model = None,
    client: Head = None,
    changed_data: ChangedTokenizer = False,
    as_json: Json = False,
) -> None:
    """Classify texts, pairs of texts or image files with a run's adapter, or let a language model answer prompts."""
    trained = fh.load_run(run)
    found = trained.predict(
        texts, pairs=pair or (), probabilities=probabilities, model=model, client=client, changed_data=changed_data
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
        if one.answer is not None:
            print(one.answer)
            continue
        others = "".join(f"\t{label} {p:.3f}" for label, p in (one.probabilities or {}).items())
        print(f"{one.label}\t{one.probability:.3f}\t{one.input}{others}")


def export(
    run: Run,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder; RUN/export if not given.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="adapter (if not given), merged or sentence-transformers.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The same as --format merged.")] = False,
    model: Model = None,
    client: Head = None,
    changed_data: ChangedTokenizer = False,
) -> None:
    """Write a run's adapter, or the merged model, as files that PEFT, transformers or sentence-transformers load."""
    written = fh.load_run(run).export(
        out, form=form, merge=merge, model=model, client=client, changed_data=changed_data
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
