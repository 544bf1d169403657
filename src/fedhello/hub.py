"""Whether the hub that holds models and data sets can be reached."""

from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled


def is_out_of_reach(error: BaseException | None) -> bool:
    """Whether an error, or one in the chain of its causes, means that the hub could not be reached."""
    while error is not None:
        if isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, TimeoutError)):
            return True
        error = error.__cause__ or error.__context__
    return False
