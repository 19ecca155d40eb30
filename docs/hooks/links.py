"""Links: the site's one rule for relative links. A page is written for the repository, and the site follows.

    docs/worlds.md    ](../benchmarks/results/world/report.md#anchor)    resolves on a forge as it stands
    site              benchmarks/results/world/report/#anchor            the same file, brought along by this hook

Whatever file of the repository a page links to becomes a part of the site, and so does what that file links to in turn.
A link that leads nowhere is left as it is, so that `mkdocs build --strict` names it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

# A link or picture in Markdown whose target is neither a web address nor a mere anchor; fenced code is left out.
LINK = re.compile(r"(?P<fence>^```.*?^```)|(?P<open>\]\()(?P<target>(?!\w+:|#)[^)\s#]+)", re.DOTALL | re.MULTILINE)
DOCS = "docs"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files of the repository that pages link to."""
    root = Path(config.config_file_path).parent
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        folder = posixpath.dirname(in_repository(page.src_uri, root))
        for match in LINK.finditer(Path(page.abs_src_path or "").read_text(encoding="utf-8")):
            if match["fence"]:
                continue
            target = posixpath.normpath(posixpath.join(folder, match["target"]))
            wanted = root / target
            if target.startswith((f"{DOCS}/", "..")) or not wanted.is_file() or files.get_file_from_path(target):
                continue
            file = File.generated(config, target, abs_src_path=str(wanted), inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(file)
            if file.is_documentation_page():
                waiting.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to files of the repository as links within the site."""
    root = Path(config.config_file_path).parent
    here = in_repository(page.file.src_uri, root)

    def moved(match: re.Match[str]) -> str:
        if match["fence"]:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match["target"]))
        site = target.removeprefix(f"{DOCS}/")
        if files.get_file_from_path(site) is None:
            return match[0]
        return match["open"] + posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def in_repository(source: str, root: Path) -> str:
    """Where a page of the site stands in the repository, from its root: in docs/, or elsewhere if brought along."""
    return f"{DOCS}/{source}" if (root / DOCS / source).is_file() else source
