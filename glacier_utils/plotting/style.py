"""What all figures share: colours, pictures of reflectance, class codes, panels, legends, menus.

Class colours are the same everywhere and keep apart for readers with any common colour blindness
(Okabe & Ito 2008; error colours checked for lightness).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from glacier_utils.conventions import UNKNOWN
from glacier_utils.metrics import outcomes
from glacier_utils.raster.indices import band

# Jupyter's server names the session of every kernel that it starts for a person; papermill,
# nbconvert and nbval start kernels of their own.
SESSION = "JPY_SESSION_NAME"

CLASS_COLOURS = {"not glacier": "#d8d2c4", "glacier": "#56b4e9", "unknown": "#7f7f7f"}
ERROR_COLOURS = {
    "correct, not glacier": "#efece4",
    "hit": "#9ecae9",
    "miss": "#e69f00",
    "false alarm": "#882255",
    "unknown": "#7f7f7f",
}
CHANGE_COLOURS = {
    "not glacier on both": "#efece4",
    "glacier on both": "#9ecae9",
    "lost": "#882255",
    "gained": "#ddaa33",
    "unknown": "#7f7f7f",
}
CAUSE_COLOURS = {
    "cloud": "#bbbbbb",
    "shadow": "#000000",
    "snow lost": "#332288",
    "snow gained": "#88ccee",
    "water": "#44aa99",
    "edge": "#ddcc77",
    "rest": "#aa4499",
}
"""Colours of the codes 1, 2, ... of the causes of a change (`transition.CAUSES`): Tol's muted ones,
apart from those of lost and gained ground."""
PAIR_CODES = (0, 1, 2, 3, UNKNOWN)
"""Codes of `ERROR_COLOURS` and `CHANGE_COLOURS`, in their order."""
CLOUD_COLOURS = {
    "clear": "#efece4",
    "cloud": "#0072b2",
    "cloud shadow": "#e69f00",
    "unknown": "#7f7f7f",
}
"""Colours of the codes 0, 1, 2, 255 of a cloud mask."""
OUTLINE_COLOUR = "#f0e442"
HATCH = "////"
"""Of what is unknown on maps of classes."""
# Okabe & Ito (2008): eight colours that stay apart for readers with any common colour blindness.
OKABE_ITO = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442", "#000000")
# The same in all notebooks; what ends in -both learned from both dates. Other models take what is
# left of the eight colours.
MODEL_COLOURS = {
    "threshold": "#000000",
    "random_forest": "#e69f00",
    "gradient_boosting": "#d55e00",
    "unet-resnet18": "#0072b2",
    "glaciernet": "#009e73",
    "unet-efficientnet-b4": "#cc79a7",
    "-both": "#56b4e9",
}
BANDS_TRUE = ("red", "green", "blue")


def palette(names: Sequence[Any]) -> dict[Any, str]:
    """Give each name a colour: models their own, others the same wherever the order is the same."""
    ends = {name: "-both" if str(name).endswith("-both") else name for name in names}
    own = {name: MODEL_COLOURS[end] for name, end in ends.items() if end in MODEL_COLOURS}
    free = cycle([c for c in OKABE_ITO if c not in own.values()] or OKABE_ITO)
    return {name: own[name] if name in own else next(free) for name in names}


def escape_math(text: object) -> str:
    """Return a user's name so that Matplotlib writes it as it is: two ``$`` make no formula."""
    return str(text).replace("$", r"\$")


def composite(
    image: np.ndarray,
    bands: Sequence[str],
    shown: Sequence[str] = BANDS_TRUE,
    *,
    valid: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return three bands as a picture.

    Args:
        image: reflectance [band, row, col].
        bands: the names of the image's bands.
        shown: the bands to show as red, green, blue.
        valid: True where the image holds data [row, col]; the rest is drawn in mid grey.
        limits: reflectance shown as black and white; default the 1st and 99th percentile of the
            valid pixels over the three bands together, so that the hue is kept.

    Returns:
        float32 [row, col, 3] in 0..1, with a gamma of 1/2 that opens the shadows.

    Raises:
        GlacierError: a band to show is missing.

    Example:
        >>> image = np.array([[[0.1, 0.3]], [[0.1, 0.3]], [[0.1, 0.3]]])
        >>> composite(image, ("red", "green", "blue"), limits=(0.1, 0.3))[0, :, 0].tolist()
        [0.0, 1.0]
    """
    picked = np.stack([band(image, bands, name) for name in shown])
    if valid is None:
        valid = np.any(picked != 0, axis=0)
    if limits is None:
        known = picked[:, valid]
        limits = tuple(np.percentile(known, (1, 99))) if known.size else (0.0, 1.0)
    low, high = limits
    scaled = np.clip((picked - low) / max(high - low, 1e-6), 0, 1) ** 0.5
    scaled[:, ~valid] = 0.5
    return np.moveaxis(scaled, 0, -1).astype(np.float32)


def shared_limits(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return one pair of display limits for images that are to be compared; (0, 1) for none."""
    known = [image[:, np.any(image != 0, axis=0)].ravel()[::7] for image in images]
    values = np.concatenate([*known, np.empty(0)])
    return tuple(np.percentile(values, (1, 99))) if values.size else (0.0, 1.0)


def pictures(images: Sequence[np.ndarray], bands: Sequence[str]) -> list[np.ndarray]:
    """Return true-colour pictures of several images with one stretch, so that they compare.

    Args:
        images: reflectance [band, row, col] each.
        bands: the names of the images' bands.

    Returns:
        A picture [row, col, 3] per image, as from `composite`.
    """
    limits = shared_limits(images)
    return [composite(image, bands, limits=limits) for image in images]


def error_codes(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Return hits and errors of a prediction against a label, both uint8 codes 0, 1, 255.

    Returns:
        uint8 of the same shape: 0 correct background, 1 hit, 2 miss, 3 false alarm, 255 unknown.

    Example:
        >>> error_codes(np.array([0, 1, 0, 1]), np.array([0, 1, 1, 255])).tolist()
        [0, 1, 2, 255]
    """
    return np.array([1, 3, 2, 0, UNKNOWN], np.uint8)[outcomes(prediction, label)]


def coloured(codes: np.ndarray, colours: Mapping[str, str], values: Sequence[int]) -> np.ndarray:
    """Return class codes as a picture in fixed colours.

    Args:
        codes: uint8 [row, col].
        colours: class name -> colour, in the order of ``values``.
        values: the codes; the last one also stands for every code not named.

    Returns:
        float32 [row, col, 3] in 0..1.
    """
    lookup = np.full(256, len(values) - 1, dtype=np.uint8)
    lookup[list(values)] = range(len(values))
    return np.array([to_rgb(colour) for colour in colours.values()], np.float32)[lookup[codes]]


def panels(
    count: int,
    size: tuple[float, float],
    margin: tuple[float, float] = (0.0, 0.0),
    *,
    columns: int = 9,
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` axes in at most ``columns`` columns.

    Args:
        count: how many axes.
        size: width and height of one of them in inches.
        margin: width and height that the figure has beyond them in inches.
        columns: how many side by side at most.
        options: of ``plt.subplots``.
    """
    columns = max(1, min(columns, count))
    rows = max(1, -(-count // columns))
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size[0] * columns + margin[0], size[1] * rows + margin[1]),
        squeeze=False,
        layout="constrained",
        **options,
    )
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def graphs(count: int, *size: tuple[float, float], **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes for graphs, open above and to the right; see `panels`."""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        return panels(count, *size, **options)


def legend_below(figure: Figure, handles: Sequence, columns: int | None = None) -> None:
    """Put one legend below a figure, all in one line or in ``columns``; none without handles."""
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(columns or len(handles), len(handles)),
            fontsize=None if columns else 8,
            frameon=False,
        )


def class_legend(
    figure: Figure,
    colours: Mapping[str, str],
    more: Iterable[Line2D] = (),
    *,
    hatched: bool = False,
) -> None:
    """Put one legend of classes below a figure, and of more that is drawn; ``hatched`` unknown."""
    classes = [
        Patch(facecolor="white", edgecolor="0.5", hatch=HATCH, label=name)
        if hatched and name == "unknown"
        else Patch(facecolor=colour, edgecolor="#555", label=name)
        for name, colour in colours.items()
    ]
    legend_below(figure, [*classes, *more])


def choose(draw: Callable[..., Any], **options: Mapping[str, Any] | Sequence[float]) -> None:
    """Draw with the first of each option; in JupyterLab with controls to choose another.

    Without a person (papermill, nbconvert, nbval) the first figure stands alone, so that nothing in
    a notebook or its page needs a running kernel.

    Args:
        draw: shows a figure; takes the options by name.
        options: name -> text of a menu -> value, or numbers for a slider, the default first.
    """
    if SESSION in os.environ:
        ipywidgets.interact(draw, **{name: _control(own) for name, own in options.items()})
    else:
        draw(**{name: _values(own)[0] for name, own in options.items()})


def _values(own: Mapping[str, Any] | Sequence[float]) -> list[Any]:
    return list(own.values() if isinstance(own, Mapping) else own)


def _control(own: Mapping[str, Any] | Sequence[float]) -> ipywidgets.Widget:
    if isinstance(own, Mapping):
        return ipywidgets.Dropdown(options=list(own.items()))
    chosen = {"value": own[0], "continuous_update": False}
    return ipywidgets.SelectionSlider(options=sorted(set(own)), **chosen)
