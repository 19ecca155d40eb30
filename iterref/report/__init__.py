"""Report: pages and pictures made from results. Nothing below imports this room when it is loaded.

    page(result, beside=...)    one HTML file: facts, the steps of the watched rows under a slider, charts, final texts
    table(result, show=...)     the final texts and rewards alone
    notebook(result)            what a notebook shows: the page in a frame
    read_document(path)         a run from a page, its JSON, or JSON lines;   page_of([a, b])   a page of one or two
    choose_rendering(show)      how tokens are shown: by a model, a tokenizer or a function, as words or as pictures
    iterref.report.plots        pictures of runs and traces (`pip install 'iterref[plots]'`)

A page needs no network, no server and no other file; what a model or a user wrote is escaped.
"""

from iterref.report.html import notebook, page, page_of, table
from iterref.report.reading import read_document
from iterref.report.render import Rendering, choose_rendering

__all__ = ["Rendering", "choose_rendering", "notebook", "page", "page_of", "read_document", "table"]
