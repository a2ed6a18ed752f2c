"""Figures with menus in JupyterLab, and without them wherever nobody can choose."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets

# Jupyter's server names the session of every kernel that it starts for a person; papermill,
# nbconvert and nbval start kernels of their own.
SESSION = "JPY_SESSION_NAME"


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
