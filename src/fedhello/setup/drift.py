"""The drift compensation of a solved head, as a configuration asks for it."""

from functools import partial

from fedhello.config.schema import Config
from fedhello.config.settings import head_settings, statistics_settings
from fedhello.model.adapter import LoraModel
from fedhello.model.compensation import DriftCompensation
from fedhello.model.head import family
from fedhello.model.private_sums import WHOLE
from fedhello.randomness import generator
from fedhello.session import ServerData


def drift_compensation(config: Config, model: LoraModel, server: ServerData, bfloat16: bool) -> DriftCompensation:
    """Return the drift compensation with the server's samples."""
    parts = [part for part in (server.validation, server.proxy) if len(part)]
    moments = statistics_settings(config).moments if config.privacy.epsilon is None else WHOLE
    return DriftCompensation(
        model=model,
        parts=parts,
        solve=partial(family, moments=moments, solver=config.model.solver, priors=config.model.priors),
        moments=moments,
        shrinkages=head_settings(config.model).shrinkages,
        order=generator(config.run.seed, "drift").permutation(sum(map(len, parts))),
        bfloat16=bfloat16,
    )
