"""How often Flower's SuperNode looks for messages and replies; Flower has no option for it."""

import time
from collections.abc import Callable

FLOWER_PAUSE = 3.0
"""Seconds that Flower waits after a look at the server that finds no message."""

SHORTEST, SHARE = 0.2, 0.1
"""The shortest pause between two looks at the server, in seconds, and its share of the time since the last message."""

OWN_PAUSE = 0.05
"""Seconds between two looks for the reply of this client's own worker; Flower waits 0.5."""


class Pace:
    """Stands in for the module ``time`` where a SuperNode waits.

    After a message the next one is looked for often, and then ever more rarely: a message waits at most a tenth of the
    time that the client has waited for it, and a client that is not invited looks as rarely as Flower lets it.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock, self._sleep, self._busy = clock, sleep, clock()

    def sleep(self, seconds: float) -> None:
        """Wait, where Flower would wait some seconds: ``FLOWER_PAUSE`` for the server, less for its worker."""
        if seconds < FLOWER_PAUSE:
            self._busy = self._clock()
            self._sleep(OWN_PAUSE)
        else:
            self._sleep(min(seconds, max(SHORTEST, SHARE * (self._clock() - self._busy))))
