from .area_page import mapped as mapped
from .area_page import write_swipe_map as write_swipe_map
from .notebooks import run_all as run_all
from .runs import (
    compare as compare,
)
from .runs import (
    open_data as open_data,
)
from .runs import (
    open_run as open_run,
)
from .runs import (
    rounded as rounded,
)
from .summaries import spatial_conclusions as spatial_conclusions
from .summaries import temporal_conclusions as temporal_conclusions
