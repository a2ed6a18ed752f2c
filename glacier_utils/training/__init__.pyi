from .fitting import (
    BOTH as BOTH,
    OTHER as OTHER,
    best_baseline as best_baseline,
    best_network as best_network,
    by_dates as by_dates,
    checkpoint as checkpoint,
    fit as fit,
    fit_again as fit_again,
    fit_all as fit_all,
    overview as overview,
    summary as summary,
)
from .settings import Settings as Settings, make_settings as make_settings
