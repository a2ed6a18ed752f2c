from .checks import check as check
from .dataset import area_dates as area_dates
from .dataset import main_dates as main_dates
from .dataset import open_dataset as open_dataset
from .exploration import SURFACES as SURFACES
from .exploration import (
    find_suspicious as find_suspicious,
)
from .exploration import (
    sample_pixels as sample_pixels,
)
from .exploration import (
    snow_fractions as snow_fractions,
)
from .exploration import (
    thumbnail as thumbnail,
)
from .exploration import (
    thumbnail_mask as thumbnail_mask,
)
from .patches import build_patches as build_patches
from .splitting import parts_meet as parts_meet
from .splitting import write_overrides_template as write_overrides_template
from .store import PatchStore as PatchStore
from .store import open_store as open_store
