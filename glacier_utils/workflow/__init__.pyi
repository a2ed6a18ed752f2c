from .area_page import mapped as mapped, write_swipe_map as write_swipe_map
from .notebooks import run_all as run_all
from .runs import (
    compare as compare,
    open_data as open_data,
    open_run as open_run,
    rounded as rounded,
)
from .summaries import spatial_conclusions as spatial_conclusions, temporal_conclusions as temporal_conclusions
