"""The samples of a data set's parts while it is read: which stay, under which names, and where the others went."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedhello.data.columns import Rows
from fedhello.data.dataset import HeldOut, Input, Kind, Picture, identity
from fedhello.data.names import WHOLE, clean, look_alikes, shown, whole_names
from fedhello.data.pictures import undecodable
from fedhello.errors import DataError
from fedhello.formatting import nearest

Part = Literal["train"] | HeldOut
HELD_OUT: tuple[HeldOut, ...] = ("validation", "test")
PARTS: tuple[Part, ...] = ("train", *HELD_OUT)


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of a table, and the part that it belongs to."""

    value: Input
    label: str
    group: str
    part: Part
    row: int
    rows: Rows

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.rows.place(self.row)


def samples_of(part: Part, rows: Rows, group: str) -> list[Sample]:
    """Return the samples of a part, in the order of the rows.

    Args:
        part: Train, validation or test.
        rows: Its rows.
        group: The group of all of them; empty for those that the rows name.
    """
    groups = [group] * len(rows.inputs) if group else rows.groups
    return [
        Sample(value, label, group, part, row, rows)
        for row, (value, label, group) in enumerate(zip(rows.inputs, rows.labels, groups, strict=True))
    ]


def check_parts(names: Mapping[Part, str], samples: list[Sample], why: Callable[[Part], str]) -> None:
    """Check that every part has a sample left.

    Args:
        names: Part → the file or split that it is read from.
        samples: The samples that are left.
        why: Returns why a part has none.

    Raises:
        DataError: If one has none, naming it and where its samples are.
    """
    left = {sample.part for sample in samples}
    for part, name in names.items():
        if part not in left:
            key = "data.name" if part == "train" else f"data.{part}"
            raise DataError(f"expected at least one sample in {name} ({key}); {why(part)}")


def known_names(samples: list[Sample], classes: Sequence[str] | None) -> tuple[list[Sample], list[str]]:
    """Return the samples with one name for each class, ``1`` for ``1.0`` among integers, and notes.

    Args:
        samples: All samples.
        classes: The names that are known already, which stay as they are; None takes those that occur.
    """
    found = sorted({sample.label for sample in samples})
    notes = []
    if classes is None:
        whole = whole_names(found)
        new = {label: name for label, name in whole.items() if label != name}
        if new:
            count = sum(sample.label in new for sample in samples)
            label, name = next(iter(new.items()))
            notes.append(
                f"{count} of {len(samples)} labels are whole numbers with a fraction, such as {label!r}, which is "
                f"read as {name!r}"
            )
        stay = sorted({new.get(label, label) for label in found})
        notes += [
            f"the classes {shown(one)} and {shown(other)} look alike; they stay apart"
            for one, other in look_alikes(stay)
        ]
    else:
        known = {clean(name): name for name in classes}
        numbers = {match[1]: name for name in known if (match := WHOLE.fullmatch(name))}
        if len(numbers) == len(known):  # all are whole numbers
            as_numbers = {label: match[1] for label in found if (match := WHOLE.fullmatch(label))}
            known |= {
                label: known[numbers[n]] for label, n in as_numbers.items() if label not in known and n in numbers
            }
        new = {label: known[label] for label in found if known.get(label, label) != label}
    return [replace(s, label=new[s.label]) if s.label in new else s for s in samples] if new else samples, notes


def labelled_as(samples: list[Sample], only: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Return the samples with some labels, and a note on the others."""
    allowed = {clean(label) for label in only}
    kept = [sample for sample in samples if clean(sample.label) in allowed]
    left_out = len(samples) - len(kept)
    return kept, [
        f"{left_out} of {len(samples)} samples have other labels than {', '.join(only)} and stay unused"
    ] if left_out else []


def decodable(samples: list[Sample]) -> tuple[list[Sample], list[str]]:
    """Return the samples whose images can be decoded, and a note on the others."""
    pictures = [sample.value for sample in samples if isinstance(sample.value, Picture)]
    bad = undecodable(pictures)
    if not bad:
        return samples, []
    first = pictures[min(bad)].name
    note = f"{len(bad)} of {len(samples)} images cannot be decoded and were left out, for example {first}"
    return [sample for i, sample in enumerate(samples) if i not in bad], [note]


WORDS: dict[Kind, str] = {
    "texts": "text",
    "pairs": "pair of texts",
    "images": "image",
    "tensors": "tensor",
    "instructions": "prompt",
}


def without_repeats(samples: list[Sample], kind: Kind) -> tuple[list[Sample], list[str]]:
    """Keep the first of equal samples, with those of the test and validation data before the training data."""
    first: dict[object, int] = {}
    keys = [identity(sample.value, kind) for sample in samples]
    for part in reversed(PARTS):
        for i, (key, sample) in enumerate(zip(keys, samples, strict=True)):
            if sample.part == part:
                first.setdefault(key, i)
    kept = [samples[first[key]] for key in keys]
    repeats = [(sample, stays) for sample, stays in zip(samples, kept, strict=True) if sample is not stays]
    if not repeats:
        return samples, []
    note = f"{len(repeats)} of {len(samples)} samples repeat an earlier {WORDS[kind]} and were left out"
    conflicts = sum(_answer(sample, kind) != _answer(stays, kind) for sample, stays in repeats)
    if conflicts:
        note += (
            f"; {conflicts} of them carry another {'response' if kind == 'instructions' else 'label'} than the first"
        )
    across = sum(sample.part != stays.part for sample, stays in repeats)
    if across:
        note += f"; {across} of them stay only in the test or validation data, where they are as well"
    return [samples[i] for i in sorted(first.values())], [note]


def elsewhere(part: Part, samples: list[Sample], kept: list[Sample], kind: Kind, names: Mapping[Part, str]) -> str:
    """Return where the samples of a part are that has none left, since they repeat those of other parts."""
    stays = {identity(sample.value, kind): sample.part for sample in kept}
    where = Counter(stays[identity(sample.value, kind)] for sample in samples if sample.part == part)
    said = " and ".join(f"{count} of {names[other]} (data.{other})" for other, count in where.items())
    return (
        f"all {where.total()} of its samples are in other parts as well, where they stay: {said}. Hold out "
        "samples that no other part has."
    )


def _answer(sample: Sample, kind: Kind) -> str:
    return sample.value[1] if kind == "instructions" and isinstance(sample.value, tuple) else sample.label


def check_known(samples: list[Sample], classes: Sequence[str]) -> None:
    """Check that all labels are among the known classes.

    Raises:
        DataError: If one is not.
    """
    unknown = next((sample for sample in samples if sample.label not in classes), None)
    if unknown is not None:
        raise DataError(
            f"expected the labels of the run, {', '.join(classes)}; {unknown.place} is labelled "
            f"{unknown.label!r}{nearest(unknown.label, classes)}"
        )


def check_classes(samples: list[Sample], name: str, before: list[Sample]) -> None:
    """Check that there are two classes to train on, and no others in the parts that are held out.

    Args:
        samples: The samples that are left.
        name: What the training data are called.
        before: The samples before repeats were left out.

    Raises:
        DataError: If it is not so.
    """
    trained = {sample.label for sample in samples if sample.part == "train"}
    lost = {sample.label for sample in before if sample.part == "train"} - trained
    if lost:
        raise DataError(
            f"expected a training sample of each class in {name}; all that are labelled {min(lost)!r} repeat samples "
            "of the test or validation data, or earlier ones with another label, which stay. Hold out other samples."
        )
    if len(trained) < 2:
        raise DataError(f"expected at least two classes in {name}; every sample is labelled {min(trained)!r}")
    unseen = next((sample for sample in samples if sample.label not in trained), None)
    if unseen is not None:
        raise DataError(
            f"expected only labels of the training data in data.{unseen.part}; {unseen.place} is labelled "
            f"{unseen.label!r}{nearest(unseen.label, sorted(trained))}"
        )
