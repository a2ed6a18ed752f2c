from .bootstrap import ranking as ranking
from .calibration import uncertainty as uncertainty
from .comparison import (
    against_baselines as against_baselines,
)
from .comparison import (
    assemble as assemble,
)
from .comparison import (
    best_median_worst as best_median_worst,
)
from .comparison import (
    block_size as block_size,
)
from .comparison import (
    boundary_table as boundary_table,
)
from .comparison import (
    calibrate as calibrate,
)
from .comparison import (
    classify_models as classify_models,
)
from .comparison import (
    clearly_better as clearly_better,
)
from .comparison import (
    curves as curves,
)
from .comparison import (
    differences as differences,
)
from .comparison import (
    error_patches as error_patches,
)
from .comparison import (
    first_area as first_area,
)
from .comparison import (
    judge as judge,
)
from .comparison import (
    measure_label_bias as measure_label_bias,
)
from .comparison import (
    patch_scores as patch_scores,
)
from .comparison import (
    predict_models as predict_models,
)
from .comparison import (
    references as references,
)
from .comparison import (
    risks as risks,
)
from .comparison import (
    same_support as same_support,
)
from .comparison import (
    spatial_scores as spatial_scores,
)
from .comparison import (
    with_boundaries as with_boundaries,
)
from .error_analysis import (
    by_reason as by_reason,
)
from .error_analysis import (
    causes as causes,
)
from .error_analysis import (
    check_rules as check_rules,
)
from .error_analysis import (
    disagreements as disagreements,
)
from .label_bias import (
    age_effect as age_effect,
)
from .label_bias import (
    band_curve as band_curve,
)
from .label_bias import (
    ceiling_by_size as ceiling_by_size,
)
from .per_glacier import by_size as by_size
from .per_glacier import scores_per_glacier as scores_per_glacier
from .seams import (
    effect_of_windows as effect_of_windows,
)
from .seams import (
    error_by_distance as error_by_distance,
)
from .seams import (
    error_near_borders as error_near_borders,
)
from .seams import (
    gain_by_distance as gain_by_distance,
)
from .seams import (
    seam_profile as seam_profile,
)
from .seams import (
    worst_seam as worst_seam,
)
