from .checkpoint import (
    Segmenter as Segmenter,
    load_checkpoint as load_checkpoint,
    save_checkpoint as save_checkpoint,
)
from .registry import (
    build as build,
    describe as describe,
    names as names,
)
