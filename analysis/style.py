"""How figures look: one palette that colour-blind readers can tell apart, one marker per variant for print in grey."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

# Okabe and Ito's palette.
COLOURS = {
    "transformer": "#000000",
    "block_window": "#E69F00",
    "luna": "#009E73",
    "fam": "#0072B2",
    "fam_gated": "#D55E00",
    "infini": "#CC79A7",
    "filtered_memory": "#56B4E9",
    # Tol's muted palette, where Okabe and Ito's ends.
    "linear": "#999933",
    "mat": "#AA4499",
    "rmt": "#882255",
    "memformer": "#44AA99",
}
MARKERS = {
    "transformer": "s",
    "block_window": "v",
    "luna": "D",
    "fam": "o",
    "fam_gated": "P",
    "infini": "^",
    "filtered_memory": "d",
    "linear": "<",
    "mat": "h",
    "rmt": "p",
    "memformer": "*",
}
SPARE_COLOURS = ("#661100", "#6699CC", "#332288")


def colour(variant: str) -> str:
    """The colour of a variant; variants without one of their own share the spare ones by name."""
    return COLOURS.get(variant) or SPARE_COLOURS[sum(map(ord, variant)) % len(SPARE_COLOURS)]


def marker(variant: str) -> str:
    """The marker of a variant."""
    return MARKERS.get(variant, "X")


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as SVG and PNG; returns both paths. No date is written: the same data give the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
    # Without a salt of its own, matplotlib draws the ids inside an SVG anew each time.
    with mpl.rc_context({"svg.hashsalt": "memattn"}):
        figure.savefig(svg, metadata={"Date": None})
    figure.savefig(png, dpi=150)
    return [svg, png]
