"""How long the server waits for a client's reply.

Before anything has come back, a deadline follows from what the client states and from what was measured of its link:

    floor + factor · (bytes / rate + FLOPs / speed)

A client that states no speed, or one of 10⁸ FLOP/s, would hold a round for three to twenty-four hours. Hence a second
rule, which uses nothing that the client itself states: as soon as more than half of the others of a message have
answered, within t seconds, the rest have at most

    relative · (floor + factor · t)

With the default values (30 s, 3 and 10) that is 300 s + 30 t: a client may be thirty times slower than the median of
the others, or have thirty times their data, and has five minutes in any case. Fewer than half of the clients cannot
move it, neither up nor down, and an error counts as no answer. Of two clients nobody can say which one is odd, so the
rule needs two others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class DeadlinePolicy:
    """The deadline of a client's reply; see above.

    Attributes:
        floor: Seconds for everything except bytes and FLOPs: a client may look for messages as rarely as every three.
        factor: Allowance for busy machines and rough estimates.
        unpredicted: Seconds of training if its FLOPs are not predicted.
        most: Upper bound of all deadlines, in seconds.
        relative: How many times as long as the others a client may take.
    """

    floor: float = 30.0
    factor: float = 3.0
    unpredicted: float = 3600.0
    most: float = 86_400.0
    relative: float = 10.0

    def seconds(self, bytes_: int, rate: float, flops: float | None, speed: float | None) -> float:
        """Return the seconds until the deadline, before any reply."""
        training = self.unpredicted if flops is None or speed is None else flops / speed
        return min(self.most, self.floor + self.factor * (bytes_ / rate + training))

    def among(self, times: Sequence[float], others: int) -> float:
        """Return the most seconds that a client has beside the others of a message; infinity while that is open.

        Args:
            times: The seconds after which replies came so far.
            others: The number of other clients that were asked.

        Example:
            >>> DeadlinePolicy().among([4.0, 10.0], others=3), DeadlinePolicy().among([4.0], others=3)
            (600.0, inf)
        """
        needed = others // 2 + 1
        if others < 2 or len(times) < needed:
            return math.inf
        return self.relative * (self.floor + self.factor * sorted(times)[needed - 1])
