"""Whose data Fisher scores are computed on: a proxy set that the server holds, or the data of a round's clients.

    proxy      Γ_l = (1/|D|) Σ_{d ∈ D} ‖∇_{θ_l} log p(y_d | x_d)‖²                     D on the server (the paper's)
    clients    Γ_l = Σ_k Σ_{d ∈ D_k} ‖∇_{θ_l} log p(y_d | x_d)‖² / Σ_k |D_k|           k ∈ S_t, D_k on client k

The second is the first with D = ∪_k D_k, although no machine holds D: a client sends L sums and a count.
"""

from typing import Annotated

from pydantic import Field

from fedhello.strategy import ScoreSource, Scoring

ScoreSamples = Annotated[int, Field(ge=1)]


def unscored() -> Scoring:
    """For methods that use no Fisher scores."""
    return Scoring("proxy", 0)


def scored(*, scores: ScoreSource = "proxy", score_samples: ScoreSamples = 64) -> Scoring:
    """For methods that use them; see above."""
    return Scoring(scores, score_samples)
