from .glims import write_glims as write_glims
from .inventory import read_outlines as read_outlines
from .matching import describe_matches as describe_matches
from .matching import match as match
from .matching import splits_and_merges as splits_and_merges
from .polygonization import polygonize as polygonize
from .polygonization import polygonize_file as polygonize_file
from .rasterization import rasterize as rasterize
