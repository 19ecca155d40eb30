"""The command `page`: a saved run, or two side by side, as one page."""

from __future__ import annotations

import click

from iterref.cli.config import configured
from iterref.cli.refusals import refusals
from iterref.cli.writing import FILE, deliver, expect_outputs


@click.command()
@click.argument("run", type=click.Path(exists=True, dir_okay=False))
@click.argument("beside", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--out", type=FILE, default="iterref-page.html", help="The page to write.  [default: iterref-page.html]")
@configured
def page(run: str, beside: str | None, out: str) -> None:
    """A page of RUN, or of RUN and BESIDE side by side. Either is a page that --html wrote, the JSON that a page
    exports, or JSON lines of --json, which have no steps."""
    with refusals():
        for file in (run, beside):
            expect_outputs(out, source=file or "")
        from iterref.report import page_of, read_document

        text = page_of([read_document(file) for file in (run, beside) if file is not None])
        deliver(out, text)
        click.echo(f"written: {out}", err=True)
