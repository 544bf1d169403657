"""Comparisons of made-up runs."""

from fedhello.results.comparison import collect, compare, describe, run_folders


def described(paths, **how):
    runs, notes = collect(run_folders(paths))
    return describe(compare(runs, notes=notes, **how))


def method(found, label):
    return next(entry for entry in found["methods"] if entry["method"] == label)
