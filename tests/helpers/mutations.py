"""Change a few bytes of a file, as damage in transport and malice do."""

import struct

import numpy as np


def mutated(rng: np.random.Generator, data: bytes, head: int | None = None, words: tuple[bytes, ...] = ()) -> bytes:
    """Change, cut, repeat, insert or overwrite bytes in one to three places.

    Args:
        rng: Chooses.
        data: The file.
        head: Length of its header, in which four of five changes are.
        words: What may be written over bytes of the file, beside extreme integers.
    """
    found = bytearray(data)
    extreme = [struct.pack(form, value) for form in ("<I", ">I", "<H", ">H") for value in (0, 1, 0x7FFF, 0xFFFF)]
    for _ in range(rng.integers(1, 4)):
        inside = head if head is not None and rng.random() < 0.8 else len(found)
        at, length = int(rng.integers(min(inside, len(found)) + 1)), int(rng.integers(1, 9))
        match rng.integers(6):
            case 0:
                found[at : at + 1] = rng.bytes(1)
            case 1:
                del found[at : at + length]
            case 2:
                found[at:at] = rng.bytes(length)
            case 3:
                found[at:at] = found[at : at + length]
            case 4:
                del found[at:]
            case _:
                new = [*extreme, *words][int(rng.integers(len(extreme) + len(words)))]
                found[at : at + len(new)] = new
    return bytes(found)
