"""The settings of a run's loop, as a configuration states them."""

from fedhello.config.schema import Config
from fedhello.session import RunSettings, StopSettings


def run_settings(config: Config, every: int, threads: int | None) -> RunSettings:
    """Return the settings of the loop.

    Args:
        config: The configuration.
        every: After how many rounds the model is scored.
        threads: See ``RunSettings``.
    """
    run, train = config.run, config.train
    return RunSettings(
        seed=run.seed,
        rounds=train.rounds,
        retries=train.retries,
        evaluate_every=every,
        selects=train.selection == "validation",
        checkpoint_every=run.checkpoint_every,
        keep=run.keep,
        track=tuple(run.track),
        is_remote=run.engine == "flower",
        metrics=tuple(run.metrics),
        threads=threads,
        stop=None if train.stop is None else StopSettings(**train.stop.model_dump()),
        target=train.target,
    )
