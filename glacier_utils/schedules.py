"""The learning rate, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

from glacier_utils.settings import Settings

_WARM_UP = 0.2  # of the steps, in the one-cycle schedule
_AVERAGING_RATE = 0.1  # of the highest learning rate, while weights are averaged


def learning_rate(settings: Settings, steps: int) -> Callable[[int], float]:
    """Return the learning rate of a step, as a share of the highest one.

    While weights are averaged it is constant, since an average over steps that grow ever smaller is
    hardly one.
    """
    averaging = steps
    if settings.average:
        averaging = steps * settings.averaging_from() // settings.epochs

    def share(step: int) -> float:
        if step >= averaging:
            return _AVERAGING_RATE
        if settings.schedule == "constant":
            return 1.0
        done = step / max(averaging - 1, 1)
        if settings.schedule == "cosine":
            return max(_half_cosine(done), 1e-5)
        if done < _WARM_UP:
            return 0.04 + 0.96 * (1 - _half_cosine(done / _WARM_UP))
        return max(_half_cosine((done - _WARM_UP) / (1 - _WARM_UP)), 4e-6)

    return share


def _half_cosine(part: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
