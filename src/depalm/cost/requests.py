"""What a job asks a scheduler for: memory and time by what it is expected to take, more with each
attempt.
"""

import math

from depalm.cost.estimate import Cost

LEAST_MEGABYTES, LEAST_MINUTES = 4_000, 30
MOST_MINUTES = 1440  # a day, which most partitions allow
MARGIN_OF_MEMORY, MARGIN_OF_TIME = 1.5, 4.0  # over what is expected, which is no measurement
UNKNOWN = {"extract": (16_000, 720), "tune": (32_000, 1440), "train": (32_000, 1440)}
OTHERWISE = (32_000, 480)  # of generation


def megabytes(cost: Cost | None, stage: str, attempt: int) -> int:
    """Main memory of a job of a stage, on the given attempt (from 1), each of which doubles it;
    `cost` is None while it is not known how much data there is.
    """
    if cost is None:
        return UNKNOWN.get(stage, OTHERWISE)[0]
    wanted = MARGIN_OF_MEMORY * cost.processes * cost.main_memory / 1e6
    return _rounded(max(LEAST_MEGABYTES, wanted), 1000) * 2 ** (attempt - 1)


def minutes(cost: Cost | None, stage: str, attempt: int) -> int:
    """Time limit of such a job, a day at most; what is stopped at it goes on where it was in the
    next attempt.
    """
    if cost is None:
        return UNKNOWN.get(stage, OTHERWISE)[1]
    wanted = MARGIN_OF_TIME * cost.seconds / cost.jobs / 60
    asked = _rounded(max(LEAST_MINUTES, wanted), 10) * 2 ** (attempt - 1)
    return min(MOST_MINUTES, asked)


def _rounded(value: float, unit: int) -> int:
    return math.ceil(value / unit) * unit
