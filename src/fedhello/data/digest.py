"""Digests of a data set's parts, by which a run that is taken up again recognises its data."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedhello.data.dataset import DataSet, Input, Picture


@dataclass(frozen=True)
class PartDigest:
    """One part of a data set.

    Attributes:
        samples: Number of its samples.
        sha256: Digest of its samples in order: content, name of the label, and group.
    """

    samples: int
    sha256: str


@dataclass(frozen=True)
class DataDigest:
    """The data of a run.

    Attributes:
        labels: Names of the classes, in the order of the logits.
        parts: Part, such as ``train`` or ``test``, → its digest; a part that is absent cannot be compared.
        processor: Digest of the tokenizer or the image processor that they are read by; empty if it is not known.
    """

    labels: tuple[str, ...] = ()
    parts: Mapping[str, PartDigest] = field(default_factory=dict)
    processor: str = ""

    def changed(self, here: "DataDigest") -> list[str]:
        """Return the parts that both have and that differ."""
        return [name for name, part in self.parts.items() if name in here.parts and here.parts[name] != part]

    def other_processor(self, processor: str) -> bool:
        """Whether the digest of a processor is known here and there, and differs."""
        return "" not in (self.processor, processor) and self.processor != processor


NOT_KNOWN = DataDigest()
"""A digest that says nothing."""


def digest_of(data: DataSet, positions: np.ndarray) -> PartDigest:
    """Return the digest of the samples at some positions; for images, of the content of their files.

    Raises:
        DataError: If the file of an image cannot be read.
    """
    digest = hashlib.sha256(data.kind.encode())
    for i in positions.tolist():
        group = data.groups[i] if data.groups else ""
        for value in (*_values(data.inputs[i]), _bytes(data.label_names[data.labels[i]]), _bytes(group)):
            digest.update(len(value).to_bytes(8, "little") + value)
    return PartDigest(len(positions), digest.hexdigest())


def _values(sample: Input) -> Iterator[bytes]:
    if isinstance(sample, Picture):
        yield sample.digest
    elif isinstance(sample, np.ndarray):
        yield f"{sample.dtype} {sample.shape}".encode()
        yield np.ascontiguousarray(sample).tobytes()
    else:
        yield from map(_bytes, (sample,) if isinstance(sample, str) else sample)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
