"""What all sections of the settings are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MOST_SECONDS = 1e8  # three years; the system's timers take not much more

Positive: TypeAlias = Annotated[float, Field(gt=0)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=MOST_SECONDS)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=10**9)]


def _openable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot have a NUL character")
    if long := [part for part in path.parts if len(part.encode(errors="replace")) > MOST_NAME]:
        raise ValueError(f"a name in it has {len(long[0])} characters; file systems take up to {MOST_NAME} bytes")
    return path


MOST_NAME = 255  # bytes of one name in a path
FilePath: TypeAlias = Annotated[Path, Field(strict=False), AfterValidator(_openable)]


class Section(BaseModel):
    """What all sections share: values do not change, unknown keys are refused, no guessing of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
