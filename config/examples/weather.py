"""Two tasks: one that works on versioned files, one that only computes.

`make run` runs both on the embedded queue and store.
"""

import csv
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, Field

from perago_worker import (
    TaskFailed,
    WorkspaceSpec,
    current_attempt,
    forbid_glob,
    require_file,
    require_glob,
    task,
)


class PlausibleRange(BaseModel):
    """Readings outside of this range are faults of a sensor."""

    lowest_c: float = -60
    highest_c: float = 60


class Summary(BaseModel):
    """What was done."""

    stations: list[str]
    readings: int
    dropped: int


@task(
    name="weather.daily",
    owner_email="data@example.com",
    description="Summarise the readings of every station by day.",
    workspace=WorkspaceSpec(
        pre=[require_file("raw/readings.csv")],
        post=[require_glob("daily/*.csv"), forbid_glob("daily/*.tmp")],
    ),
)
def daily(workspace: Path, params: PlausibleRange) -> Summary:
    """Write `daily/STATION.csv` with the lowest, mean and highest temperature of every day."""
    by_day: dict[tuple[str, str], list[float]] = defaultdict(list)
    dropped = 0
    with (workspace / "raw/readings.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            temperature = float(row["temperature_c"] or "nan")
            if params.lowest_c <= temperature <= params.highest_c:
                by_day[row["station"], row["time"][:10]].append(temperature)
            else:
                dropped += 1
    if not by_day:
        raise TaskFailed("no plausible reading in raw/readings.csv")

    (workspace / "daily").mkdir(exist_ok=True)
    stations = sorted({station for station, _ in by_day})
    for done, station in enumerate(stations, start=1):
        with (workspace / f"daily/{station}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("day", "lowest_c", "mean_c", "highest_c"))
            for (of, day), values in sorted(by_day.items()):
                if of == station:
                    writer.writerow((day, min(values), round(fmean(values), 2), max(values)))
        current_attempt().progress(done, len(stations), station)
    return Summary(stations=stations, readings=sum(map(len, by_day.values())), dropped=dropped)


class Air(BaseModel):
    """State of the air."""

    temperature_c: float = Field(ge=-45, le=60)
    humidity_percent: float = Field(gt=0, le=100)


class DewPoint(BaseModel):
    """Temperature at which the air is saturated."""

    dew_point_c: float


@task(name="weather.dew_point", owner_email="data@example.com")
def dew_point(params: Air) -> DewPoint:
    """Compute the dew point by the Magnus formula (coefficients of Sonntag, 1990)."""
    gamma = math.log(params.humidity_percent / 100) + 17.62 * params.temperature_c / (
        243.12 + params.temperature_c
    )
    return DewPoint(dew_point_c=round(243.12 * gamma / (17.62 - gamma), 2))
