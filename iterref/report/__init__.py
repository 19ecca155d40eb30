"""Report: pages and pictures made from results. Nothing below imports this room when it is loaded.

    page(result, beside=...)    one HTML file: facts, the steps of the watched rows under a slider, charts, final texts
    table(result, show=...)     the final texts and rewards alone
    page_of([a, b])             a page of one run or two, as `read_document` reads them
    iterref.report.plots        pictures of runs and traces (`pip install 'iterref[plots]'`)

A page needs no network, no server and no other file; what a model or a user wrote is escaped.
"""

from iterref.report.html import notebook, page, page_of, table
from iterref.report.reading import read_document
from iterref.report.render import Rendering, choose_rendering

__all__ = ["Rendering", "choose_rendering", "notebook", "page", "page_of", "read_document", "table"]
