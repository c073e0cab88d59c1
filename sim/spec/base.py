"""The base of all specs, and the annotated quantity types they are made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """Frozen, strict, no unknown keys: what the user wrote, checked, in SI units."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
