"""Main: `python -m iterref` is the command `iterref`, for environments whose scripts are not on the path."""

from __future__ import annotations

from iterref.cli import main

if __name__ == "__main__":
    main(prog_name="iterref")
