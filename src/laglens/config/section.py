"""What every section of the config has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

HEAD_PATTERN = r"^[a-z][a-z0-9_]* L\d\d H\d\d$"
FACTORY_PATTERN = r"^.+\.py:[A-Za-z_]\w*$"
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class Section(BaseModel):
    """Keys a person may write; an unknown one is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
