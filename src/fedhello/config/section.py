"""Base classes of the sections of a configuration."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

ConfigMapping = dict[str, Any]
"""A configuration, or a section of one, as nested plain values: what a file holds, before it is checked."""


MOST = 10**15
"""The highest number of a key; arrays of more cannot be made, and products of two such stay finite in float32."""


class Section(BaseModel):
    """A frozen section; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _at_most(cls, value: Any, info: ValidationInfo) -> Any:
        if type(value) in (int, float) and value > MOST and info.field_name not in ("seed", "speed"):
            raise ValueError(f"input should be at most {MOST:.0e}")
        return value


class Named(BaseModel):
    """A section with a name and, as further keys, its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def options(self) -> dict[str, Any]:
        """The given options, without the name."""
        return dict(self.__pydantic_extra__ or {})
