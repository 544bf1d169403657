"""Decode and check the sums for Fisher scores that clients send."""

import torch

from fedhello.client.scoring import BlockSums, ScoreReply, check_block_sums
from fedhello.engine.wire import decode_sums
from fedhello.errors import UpdateError


def read_block_sums(payload: bytes, L: int, most: int) -> BlockSums:
    """Return serialised sums after checking them.

    Args:
        payload: Untrusted bytes.
        L: The number of blocks.
        most: The most samples that the client may use.

    Raises:
        UpdateError: If they are not L finite sums ≥ 0 and a count within 1 … ``most``.
    """
    like = {"squares": (L,), "count": ()}
    shapes = {name: torch.empty(shape, dtype=torch.float64, device="meta") for name, shape in like.items()}
    sums = BlockSums(**decode_sums(payload, shapes))
    check_block_sums(sums, most)
    return sums


def score_reply(client: int, payload: bytes, L: int, most: int, bytes_down: int, note: str = "") -> ScoreReply:
    """Return the reply in a client's payload, or a reply with the reason why it does not count; never raises."""
    try:
        sums = read_block_sums(payload, L, most)
    except UpdateError as error:
        return ScoreReply((client,), None, str(error), bytes_down, len(payload))
    return ScoreReply((client,), sums, note, bytes_down, len(payload))
