"""What all settings of a job have in common."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that refuses what it does not know, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
