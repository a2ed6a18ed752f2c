from .many_scenes import map_scenes as map_scenes
from .mapper import (
    Mapper as Mapper,
)
from .mapper import (
    predict_patches as predict_patches,
)
from .mapper import (
    predict_scene as predict_scene,
)
from .scene_lists import list_scenes as list_scenes
from .scenes import (
    check_products as check_products,
)
from .scenes import (
    large_scene as large_scene,
)
from .scenes import (
    map_scene as map_scene,
)
from .scenes import (
    product_table as product_table,
)
from .scenes import (
    reduced as reduced,
)
from .scenes import (
    seen_from_afar as seen_from_afar,
)
from .scenes import (
    write_products as write_products,
)
