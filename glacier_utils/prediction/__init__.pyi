from .adaptation import adapt_to_source as adapt_to_source, predict_by_scene as predict_by_scene
from .many_scenes import map_scenes as map_scenes
from .mapper import (
    Mapper as Mapper,
    predict_patches as predict_patches,
    predict_scene as predict_scene,
)
from .postprocess import effects as effects
from .scene_lists import list_scenes as list_scenes
from .scenes import (
    check_products as check_products,
    known_rock as known_rock,
    large_scene as large_scene,
    map_scene as map_scene,
    product_table as product_table,
    reduced as reduced,
    seen_from_afar as seen_from_afar,
    write_products as write_products,
)
