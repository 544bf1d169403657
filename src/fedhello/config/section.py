"""Base classes of the sections of a configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict

ConfigMapping = dict[str, Any]
"""A configuration, or a section of one, as nested plain values: what a file holds, before it is checked."""


class Section(BaseModel):
    """A frozen section; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Named(BaseModel):
    """A section with a name and, as further keys, its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The given options, without the name."""
        return dict(self.__pydantic_extra__ or {})
