from .checkpoint import (
    Segmenter as Segmenter,
)
from .checkpoint import (
    load_checkpoint as load_checkpoint,
)
from .checkpoint import (
    save_checkpoint as save_checkpoint,
)
from .registry import (
    build as build,
)
from .registry import (
    describe as describe,
)
from .registry import (
    names as names,
)
