"""What the sections of a configuration have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict

ConfigMapping = dict[str, Any]
"""A configuration, or a section of one, as nested plain values: what a file holds, before it is checked."""


class Section(BaseModel):
    """Keys with their types; none other is taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(BaseModel):
    """Something with a name, and its options beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The options given, without the name."""
        return dict(self.__pydantic_extra__ or {})
