from .fitting import (
    fit as fit,
)
from .fitting import (
    fit_again as fit_again,
)
from .fitting import (
    fit_all as fit_all,
)
from .fitting import (
    overview as overview,
)
from .fitting import (
    summary as summary,
)
from .selection import (
    BOTH as BOTH,
)
from .selection import (
    OTHER as OTHER,
)
from .selection import (
    best_baseline as best_baseline,
)
from .selection import (
    best_network as best_network,
)
from .selection import (
    by_dates as by_dates,
)
from .selection import (
    checkpoint as checkpoint,
)
from .settings import Settings as Settings
