from .grid import Grid as Grid
from .indices import ice_index as ice_index
from .io import open_raster as open_raster
from .io import write_raster as write_raster
from .mask import open_mask as open_mask
