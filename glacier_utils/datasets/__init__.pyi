from .checks import check as check
from .dataset import open_dataset as open_dataset
from .exploration import (
    brightness_maps as brightness_maps,
    class_shares as class_shares,
    domain_shift as domain_shift,
    doubtful_windows as doubtful_windows,
    find_suspicious as find_suspicious,
    label_age as label_age,
    label_doubts as label_doubts,
    repeated_analyses as repeated_analyses,
    sample_pixels as sample_pixels,
    separability as separability,
    snow_shares as snow_shares,
    thumbnail as thumbnail,
    thumbnail_mask as thumbnail_mask,
    tile_boxes as tile_boxes,
)
from .patches import build_patches as build_patches
from .splitting import parts_meet as parts_meet, write_overrides_template as write_overrides_template
from .store import PatchStore as PatchStore, open_store as open_store
