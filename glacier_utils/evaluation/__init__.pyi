from .bootstrap import ranking as ranking
from .calibration import uncertainty as uncertainty
from .comparison import (
    against_baselines as against_baselines,
    assemble as assemble,
    best_median_worst as best_median_worst,
    block_size as block_size,
    boundary_table as boundary_table,
    calibrate as calibrate,
    classify_models as classify_models,
    clearly_better as clearly_better,
    curves as curves,
    differences as differences,
    error_patches as error_patches,
    first_area as first_area,
    judge as judge,
    measure_label_bias as measure_label_bias,
    patch_scores as patch_scores,
    predict_models as predict_models,
    references as references,
    risks as risks,
    same_support as same_support,
    spatial_scores as spatial_scores,
    with_boundaries as with_boundaries,
)
from .error_analysis import (
    by_reason as by_reason,
    causes as causes,
    check_rules as check_rules,
    disagreements as disagreements,
)
from .label_bias import (
    age_effect as age_effect,
    band_curve as band_curve,
    ceiling_by_size as ceiling_by_size,
)
from .per_glacier import by_size as by_size, scores_per_glacier as scores_per_glacier
from .seams import (
    effect_of_windows as effect_of_windows,
    error_by_distance as error_by_distance,
    error_near_borders as error_near_borders,
    gain_by_distance as gain_by_distance,
    seam_profile as seam_profile,
    worst_seam as worst_seam,
)
