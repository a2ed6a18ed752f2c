from .fitting import (
    BOTH as BOTH,
)
from .fitting import (
    OTHER as OTHER,
)
from .fitting import (
    best_baseline as best_baseline,
)
from .fitting import (
    best_network as best_network,
)
from .fitting import (
    by_dates as by_dates,
)
from .fitting import (
    checkpoint as checkpoint,
)
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
from .settings import Settings as Settings
