"""Page: a result as one self-contained HTML file, which needs no network, no server and no other file.

    page(result, show=...)      the steps of the watched rows under a slider, the charts and the final texts
    table(result, show=...)     the final texts and rewards alone, for a notebook
    faces(show)                 how tokens are shown: by a model, a tokenizer or a function, as words or as pictures

Everything that a model or a user wrote is escaped, and the page allows no script but its own. It stands below the run
in the order of imports and reads the attributes of a result (`Shown`), so that a `Result` can save itself.
"""

from iterref.page.faces import Faces, faces
from iterref.page.html import Shown, page, table

__all__ = ["Faces", "Shown", "faces", "page", "table"]
