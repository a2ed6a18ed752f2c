from .clouds import (
    cloud_fractions as cloud_fractions,
)
from .clouds import (
    cloud_mask as cloud_mask,
)
from .download import fetch as fetch
from .source import open_source as open_source
