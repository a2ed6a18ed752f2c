from .change_figures import (
    area_series as area_series,
)
from .change_figures import (
    cause_bars as cause_bars,
)
from .change_figures import (
    cause_maps as cause_maps,
)
from .change_figures import (
    false_change as false_change,
)
from .change_figures import (
    glacier_changes as glacier_changes,
)
from .change_figures import (
    prices as prices,
)
from .change_figures import (
    robustness_matrix as robustness_matrix,
)
from .charts import (
    band_histograms as band_histograms,
)
from .charts import (
    class_balance as class_balance,
)
from .charts import (
    differences as differences,
)
from .charts import (
    learning_curves as learning_curves,
)
from .charts import (
    patch_scores as patch_scores,
)
from .charts import (
    precision_recall as precision_recall,
)
from .charts import (
    score_intervals as score_intervals,
)
from .charts import (
    seam_profile as seam_profile,
)
from .charts import (
    shift_heatmap as shift_heatmap,
)
from .charts import (
    transition_matrices as transition_matrices,
)
from .evaluation_figures import (
    areas as areas,
)
from .evaluation_figures import (
    band_curves as band_curves,
)
from .evaluation_figures import (
    cleanup_effects as cleanup_effects,
)
from .evaluation_figures import (
    correlograms as correlograms,
)
from .evaluation_figures import (
    coverage as coverage,
)
from .evaluation_figures import (
    disagreement_gallery as disagreement_gallery,
)
from .evaluation_figures import (
    error_bars as error_bars,
)
from .evaluation_figures import (
    error_by_distance as error_by_distance,
)
from .evaluation_figures import (
    label_age as label_age,
)
from .evaluation_figures import (
    labels_and_truth as labels_and_truth,
)
from .evaluation_figures import (
    ranking as ranking,
)
from .evaluation_figures import (
    reliability as reliability,
)
from .evaluation_figures import (
    risk_coverage as risk_coverage,
)
from .evaluation_figures import (
    size_classes as size_classes,
)
from .evaluation_figures import (
    window_effects as window_effects,
)
from .gallery import (
    augmentation_gallery as augmentation_gallery,
)
from .gallery import (
    dropped_patches as dropped_patches,
)
from .gallery import (
    exploded as exploded,
)
from .gallery import (
    patch_gallery as patch_gallery,
)
from .maps import (
    CLOUD_COLOURS as CLOUD_COLOURS,
)
from .maps import (
    detail as detail,
)
from .maps import (
    large_map as large_map,
)
from .maps import (
    large_maps as large_maps,
)
from .maps import (
    matches_map as matches_map,
)
from .maps import (
    over as over,
)
from .style import (
    CLASS_COLOURS as CLASS_COLOURS,
)
from .style import (
    area_overview as area_overview,
)
from .style import (
    area_scenes as area_scenes,
)
from .style import (
    change_maps as change_maps,
)
from .style import (
    code_maps as code_maps,
)
from .style import (
    composite as composite,
)
from .style import (
    error_codes as error_codes,
)
from .style import (
    error_maps as error_maps,
)
from .style import (
    label_maps as label_maps,
)
from .style import (
    pictures as pictures,
)
from .style import (
    probability_maps as probability_maps,
)
from .style import (
    scenes as scenes,
)
from .style import (
    split_map as split_map,
)
