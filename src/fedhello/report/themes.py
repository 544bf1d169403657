"""Colours and lines of figures, in light and dark, as configurations of Vega; specifications name no colours.

Categories are told apart by readers with any colour vision (after Okabe and Ito), and reach a contrast of 3 to the
page. Values run from that of the page to the strongest. ``style`` names what has a colour of its own:
``reference`` lines, the ``band`` around a line, a ``mark`` on a bar, and numbers on ``weak`` and ``strong`` cells.
"""

from typing import Any

CATEGORIES = {
    "light": ["#0072b2", "#c44e00", "#00805e", "#a8488b", "#8a6400", "#4a6fd0", "#5c6370"],
    "dark": ["#5ab4f0", "#f39b5c", "#35c69b", "#e08fc3", "#dcbf52", "#9db4ff", "#b4bcc8"],
}
RAMPS = {
    "light": ["#eef4fa", "#bdd7ec", "#6cacd8", "#1f78b4", "#084a80"],
    "dark": ["#1d2733", "#1f4566", "#23699c", "#4a9fd8", "#a9dcff"],
}
INK = {
    "light": ("#1c2128", "#59636e", "#d9dee4", "#ffffff"),
    "dark": ("#e6e9ee", "#a3adb9", "#343c47", "#1a2028"),
}
"""Text, less important text, lines, and what is behind them."""


def _config(theme: str) -> dict[str, Any]:
    ink, muted, line, paper = INK[theme]
    return {
        "background": None,
        "aria": False,
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
        "view": {"stroke": None},
        "range": {"category": CATEGORIES[theme], "ramp": RAMPS[theme], "heatmap": RAMPS[theme]},
        "mark": {"color": CATEGORIES[theme][0], "tooltip": True},
        "line": {"strokeWidth": 2.2, "strokeJoin": "round"},
        "point": {"filled": True, "size": 36},
        "bar": {"cornerRadiusEnd": 2},
        "text": {"color": ink},
        "title": {"color": ink, "fontSize": 14, "anchor": "start", "fontWeight": 600},
        "axis": {
            "labelColor": muted,
            "titleColor": muted,
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "gridOpacity": 0.7,
            "titlePadding": 8,
        },
        "legend": {
            "labelColor": ink,
            "titleColor": muted,
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12,
            "orient": "top",
            "symbolStrokeWidth": 2.2,
            "labelLimit": 320,
        },
        "style": {
            "reference": {"stroke": muted, "color": muted, "strokeDash": [4, 4], "strokeWidth": 1.4, "opacity": 1},
            "band": {"opacity": 0.16, "strokeWidth": 0, "color": CATEGORIES[theme][0]},
            "cell": {"stroke": paper, "strokeWidth": 1},
            "weak": {"color": ink, "fontSize": 12},
            "strong": {"color": paper, "fontSize": 12},
            "mark": {"color": ink, "opacity": 1, "thickness": 3},
        },
    }


THEMES = {theme: _config(theme) for theme in ("light", "dark")}
"""Name of the theme → Vega's ``config``."""
