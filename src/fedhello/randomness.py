"""Every random choice comes from one seed through a named stream.

A stream is a pure function of ``(seed, name, indices)``; nothing is drawn from a shared generator whose
position would depend on what ran before. So a checkpoint needs only the seed and the round, a resumed run
repeats exactly, and a client's draws do not depend on which clients were served before it.
"""

import hashlib
import secrets

import numpy as np


def generator(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Return the random generator of a named stream.

    Args:
        seed: The run's seed, ≥ 0.
        name: The stream's purpose: ``"sampling"``, ``"allocation"``, ``"partition"``, ``"order"``, ``"dropout"``, …
        indices: Usually the round and the client of the draw; each ≥ 0. Zeros at the end count
            as none.

    Returns:
        A fresh generator; equal arguments give equal draws.

    Example:
        >>> bool(generator(0, "sampling", 3).random() == generator(0, "sampling", 3).random())
        True
        >>> bool(generator(0, "sampling", 3).random() == generator(0, "allocation", 3).random())
        False
    """
    purpose = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng(np.random.SeedSequence([seed, purpose, *indices]))


def secret_generator() -> np.random.Generator:
    """Return a generator seeded with 256 bits of the operating system, for draws that nobody may be able to repeat."""
    return np.random.Generator(np.random.PCG64DXSM(secrets.randbits(256)))


def turn(seed: int, n: int, cycle: int, round: int) -> np.ndarray:
    """Return whose turn a round is, of ``n`` who take turns: ascending positions, about ``n / cycle`` of them.

    Each has one turn in ``cycle`` rounds, always the same one.

    Args:
        seed: The run's seed.
        n: How many there are.
        cycle: Number of rounds in which all have their turn; 1 for all in every round.
        round: The round.

    Example:
        >>> sorted(int(k) for t in range(3) for k in turn(0, 7, 3, t))
        [0, 1, 2, 3, 4, 5, 6]
    """
    if cycle == 1:
        return np.arange(n)
    return np.sort(generator(seed, "turns").permutation(n)[round % cycle :: cycle])


def integer_seed(seed: int, name: str, *indices: int) -> int:
    """Return a 31-bit seed from the same streams, for libraries that take an integer (torch, scikit-learn)."""
    return int(generator(seed, name, *indices).integers(2**31))
