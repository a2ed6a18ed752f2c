"""What tests of figures share."""

from __future__ import annotations

from matplotlib.figure import Figure

# Two dollar signs would be read as a formula, whose error shows up only when it is drawn.
ODD = "a $x_{ <b> $"


def drawn(figure: Figure) -> Figure:
    """Draw a figure, since many errors come up only then."""
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return figure


def legend(figure: Figure) -> list[str]:
    """All entries of the figure's legends."""
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return [text.get_text() for item in legends for text in item.get_texts()]
