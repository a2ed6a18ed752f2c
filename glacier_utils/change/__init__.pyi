from .area import (
    from_seeds as from_seeds,
)
from .area import (
    from_validation as from_validation,
)
from .area import (
    widest as widest,
)
from .series import (
    area_table as area_table,
)
from .series import (
    causes_are_complete as causes_are_complete,
)
from .series import (
    count_blocks as count_blocks,
)
from .series import (
    explain_all as explain_all,
)
from .series import (
    glacier_table as glacier_table,
)
from .series import (
    grounds as grounds,
)
from .series import (
    locate_causes as locate_causes,
)
from .series import (
    matrix as matrix,
)
from .series import (
    other_seeds as other_seeds,
)
from .series import (
    partitions as partitions,
)
from .series import (
    predict as predict,
)
from .series import (
    price as price,
)
from .series import (
    read_clouds as read_clouds,
)
from .series import (
    read_views as read_views,
)
from .series import (
    robustness as robustness,
)
from .series import (
    snow_table as snow_table,
)
from .series import (
    statements as statements,
)
from .series import (
    steadiness as steadiness,
)
from .series import (
    sum_table as sum_table,
)
from .series import (
    transition_map as transition_map,
)
from .series import (
    unchanged_truth as unchanged_truth,
)
