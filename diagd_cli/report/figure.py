"""matplotlib, an extra, for whatever draws with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagd_cli.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_class(purpose: str) -> type[Figure]:
    """matplotlib's Figure, which draws without a display. Raises MissingExtra: `purpose`
    needs it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", purpose) from error
    return Figure
