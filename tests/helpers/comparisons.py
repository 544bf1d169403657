"""Comparisons of made-up runs."""

from fedhello.results.comparison import collect, compare, run_folders


def compared(paths, **how):
    runs, notes = collect(run_folders(paths))
    return compare(runs, notes=notes, **how).summary


def method(found, label):
    return next(method for method in found.methods if method.method == label)
