"""Gallery: small grey images beside each other, a grid for every run, written to a file.

    panels in reading order, `ABREAST` a line: one run each;  in a panel, image r stands in row r // columns and column
    r % columns

No global state of matplotlib is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from iterref.optional import require

INCHES = 0.36  # the side of an image
ABREAST = 3


def gallery(
    panels: Mapping[str, Tensor], path: str | Path, *, side: int, levels: int, columns: int = 10, most: int = 60,
    title: str = "",
) -> Path:  # fmt: skip
    """Draws the first `most` images of every panel, grey levels (R, side^2) from 0 (white) to `levels` - 1 (black).

    The format follows the file's ending. Returns the path; raises `ValueError` where there is nothing to draw or an
    image has another size, and `OSError` where the file cannot be written.
    """
    require("matplotlib", "plots", "a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not panels or not all(len(tokens) for tokens in panels.values()):
        raise ValueError("there are no images to draw: give at least one panel, and an image in each")
    pages = {name: page(tokens[:most], side, columns) for name, tokens in panels.items()}
    wide = min(ABREAST, len(pages))
    high = -(-len(pages) // wide)
    height = max(len(tokens[:most]) + columns - 1 for tokens in panels.values()) // columns
    size = (INCHES * columns * wide + 0.3, (INCHES * height + 0.35) * high + (0.25 if title else 0.0))
    figure = Figure(figsize=size, dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.1))
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(high, wide, squeeze=False).flat)
    for axis in axes[len(pages) :]:
        axis.set_axis_off()
    for axis, (name, picture) in zip(axes, pages.items(), strict=False):
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=levels - 1, interpolation="nearest")
        axis.set_title(name, fontsize=9)
        axis.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def page(tokens: Tensor, side: int, columns: int = 10) -> np.ndarray:
    """Images (R, side^2) in reading order on one page, a line of white pixels around each."""
    if tokens.dim() != 2 or tokens.shape[1] != side**2:
        raise ValueError(f"images must be (images, {side**2}), got {tuple(tokens.shape)}: give finished canvases")
    lines, step = -(-len(tokens) // columns), side + 1
    picture = np.zeros((lines * step + 1, columns * step + 1))
    for r, image in enumerate(tokens.cpu().numpy().reshape(-1, side, side)):
        top, left = (1 + step * (r // columns)), (1 + step * (r % columns))
        picture[top : top + side, left : left + side] = image
    return picture
