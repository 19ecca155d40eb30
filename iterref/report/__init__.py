"""Report: pages and pictures made from results. Nothing below imports this room when it is loaded.

    page(result, show=...)      one HTML file: the steps of the watched rows under a slider, charts and final texts
    table(result, show=...)     the final texts and rewards alone, for a notebook
    choose_rendering(show)      how tokens are shown: by a model, a tokenizer or a function, as words or as pictures
    iterref.report.plots        pictures of runs and traces (`pip install 'iterref[plots]'`)

A page needs no network, no server and no other file; what a model or a user wrote is escaped.
"""

from iterref.report.html import page, table
from iterref.report.render import Rendering, choose_rendering

__all__ = ["Rendering", "choose_rendering", "page", "table"]
