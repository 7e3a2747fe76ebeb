"""Make load.csv: nine weeks of a SYNTHETIC hourly electricity load, not measured anywhere.

Run it from anywhere: ``python data/make_load.py``. The same file comes out every time.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from laglens.store import write_table

WEEKS = 9
HOURS_PER_DAY, DAYS_PER_WEEK = 24, 7
# GW above the night's base load at midnight, 01:00, ... of a working day: a morning ramp and an evening peak.
WORKING_DAY = [
    2.0, 0.8, 0.2, 0.0, 0.4, 1.8, 5.2, 9.8, 12.6, 13.4, 13.6, 13.8,
    13.5, 12.9, 12.2, 11.8, 12.4, 14.6, 16.2, 15.4, 12.8, 9.6, 6.4, 3.8,
]  # fmt: skip
STRENGTH_OF_DAY = [0.97, 1.0, 1.0, 1.0, 0.96, 0.68, 0.55]  # Monday to Sunday
BASE = 42.0  # GW


def make_load(seed: int = 0) -> pd.DataFrame:
    """Table with the columns ``timestamp`` (hourly, no time zone) and ``GW``."""
    hour = np.arange(WEEKS * DAYS_PER_WEEK * HOURS_PER_DAY)
    rng = np.random.default_rng(seed)
    day = np.array(STRENGTH_OF_DAY)[hour // HOURS_PER_DAY % DAYS_PER_WEEK]
    season = 2.5 * np.cos(2 * np.pi * hour / (52 * DAYS_PER_WEEK * HOURS_PER_DAY))
    weather = lfilter([1.0], [1.0, -0.97], rng.normal(0, 0.25, len(hour)))
    load = BASE + day * np.array(WORKING_DAY)[hour % HOURS_PER_DAY] + season + weather + rng.normal(0, 0.2, len(hour))
    # 1 January 2024 was a Monday.
    timestamp = pd.date_range("2024-01-01", periods=len(hour), freq="h").strftime("%Y-%m-%d %H:%M")
    return pd.DataFrame({"timestamp": timestamp, "GW": load.round(2)})


if __name__ == "__main__":
    write_table(make_load(), Path(__file__).with_name("load.csv"))
