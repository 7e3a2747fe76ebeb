"""Lags in the time unit of a signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_time(lag: float, signal: Mapping[Any, Any]) -> dict[str, Any]:
    """A lag in the time unit of the signal."""
    step, unit = signal.get("time_step") or 1, signal.get("time_unit") or "samples"
    return {"lag_time": lag * float(step), "time_unit": str(unit)}
