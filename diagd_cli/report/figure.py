"""matplotlib, an extra, for whatever draws with it."""

from __future__ import annotations

from diagd_cli.errors import MissingExtra


def figure_class(purpose: str) -> type:
    """matplotlib's Figure, which draws without a display. Raises MissingExtra: `purpose` needs it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", purpose) from error
    return Figure
