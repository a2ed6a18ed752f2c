from .glims import write_glims as write_glims
from .inventory import read_polygons as read_polygons
from .matching import (
    match as match,
)
from .matching import (
    splits_and_merges as splits_and_merges,
)
from .matching import (
    words as words,
)
from .polygonization import trace_file as trace_file
from .rasterization import read_outlines as read_outlines
