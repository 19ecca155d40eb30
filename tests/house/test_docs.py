"""The documentation: it builds without a warning, its links lead somewhere in the repository and on the site, every
public name is in the reference, and its pages stay short. test_blocks.py runs their code."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

import iterref
from iterref.registry import ROOMS, get, names
from iterref.samplers.strings import sampler_from_string
from tests.support.browser import chromium

__all__ = ["chromium"]
ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
WORDS = 34_000  # of the pages in docs/, code and tables included: what is added takes the place of something else
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")


def build(config: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """The site of a configuration, every warning an error."""
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return out


def referred(site: Path) -> set[str]:
    """Every name in the site's inventory of the reference."""
    _, body = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    return {line.split()[0] for line in zlib.decompress(body).decode().splitlines()}


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)  # and those that the pages link to
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*")
    for page in pages:
        found = [tag for tag in loaded.findall(page.read_text(encoding="utf-8")) if 'rel="canonical"' not in tag]
        assert not found, f"{page.relative_to(site)} loads {found[0]}"


def test_files_outside_of_docs_come_along_and_links_lead_to_them(site: Path) -> None:
    defaults = (site / "defaults" / "index.html").read_text(encoding="utf-8")
    assert 'href="../benchmarks/results/world/report/#cells-that-it-loses"' in defaults
    assert (site / "benchmarks" / "results" / "world" / "report" / "index.html").is_file()
    assert (site / "examples" / "quickstart.py").read_bytes() == (ROOT / "examples" / "quickstart.py").read_bytes()
    picture = 'src="../benchmarks/results/world/masked-24-8-pairs-a0.5-total.png"'
    assert picture in (site / "worlds" / "index.html").read_text(encoding="utf-8")


def test_docstrings_render_as_they_are_written(site: Path) -> None:
    for page in (site / "api").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<em>[^<]*-&gt;[^<]*</em>", text), f"{page}: a shape with * is read as emphasis"
        assert ":::" not in re.sub(r"<[^>]+>", "", text)


OUTSIDE = """() => [...document.querySelectorAll("pre > code"), document.documentElement]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText.slice(0, 80))"""


@pytest.mark.parametrize("width", [1280, 400])
def test_code_fits_the_column_in_the_browser(site: Path, chromium: Any, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900})
    tab = context.new_page()
    found = {}
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").with_suffix("")
        if name.parts[0] != "api":
            tab.goto((site / ("" if name.name == "index" else name) / "index.html").as_uri())
            found[str(name)] = tab.evaluate(OUTSIDE)
    tab.add_style_tag(content="pre > code { white-space: pre !important; }")
    tab.evaluate("document.querySelector('article').insertAdjacentHTML('beforeend', '<pre><code>' + 'x '.repeat(999))")
    assert tab.evaluate(OUTSIDE) and found  # the control: what does not fit is seen
    context.close()
    assert {name: wide for name, wide in found.items() if wide} == {}


def small(folder: Path, page: str) -> Path:
    """A configuration like the site's own over one page, without the reference."""
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(page, encoding="utf-8")
    copytree(ROOT / "docs" / "hooks", folder / "docs" / "hooks")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav, after = text.index("\nnav:"), text.index("\nmarkdown_extensions:")
    (folder / "mkdocs.yml").write_text(text[:nav] + "\nplugins: [search]\n" + text[after:], encoding="utf-8")
    return folder / "mkdocs.yml"


def test_links_that_lead_nowhere_break_the_build(tmp_path: Path) -> None:
    gone = ["nowhere.md", "../results/nowhere.md", "#no-such-section", "../../other.md"]
    done = build(small(tmp_path, "# Page\n\n" + " ".join(f"[gone]({link})" for link in gone)), tmp_path / "out")
    assert done.returncode != 0
    assert all(f"'{link}'" in done.stderr for link in gone), done.stderr


def test_a_link_in_a_linked_file_is_followed(tmp_path: Path) -> None:
    config = small(tmp_path, "# Page\n\n[table](../results/table.md)\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").write_text("# Table\n\n[back](../docs/index.md), [all](runs.csv)\n")
    (tmp_path / "results" / "runs.csv").write_text("a,b\n")
    done = build(config, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "results" / "table" / "index.html").read_text(encoding="utf-8")
    assert 'href="../.."' in table and 'href="../runs.csv"' in table
    assert (tmp_path / "out" / "results" / "runs.csv").is_file()


def links(text: str) -> Iterator[str]:
    """The relative links of a page, code left out."""
    return (match[1] for match in LINK.finditer(re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", text))))


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives to the headings of a page."""
    heads = re.findall(r"^#+ +(.*?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(page: Path, text: str, root: Path) -> list[str]:
    """The relative links of a page that lead nowhere in the repository."""
    found = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or not target.is_relative_to(root):
            found.append(link)
        elif anchor and not target.is_relative_to(root / "docs" / "api"):  # whose headings the site makes
            own = text if target == page else target.read_text(encoding="utf-8")
            found += [] if anchor in anchors(own) else [link]
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    assert broken(page, page.read_text(encoding="utf-8"), ROOT) == []


def test_the_link_checker_finds_what_is_broken() -> None:
    page = ROOT / "docs" / "method.md"
    text = "[a](gone.md) [b](correctness.md#gone) [c](../../out.md) [d](#gone) [e](correctness.md#proofs) `[f](g.md)`"
    assert broken(page, text, ROOT) == ["gone.md", "correctness.md#gone", "../../out.md", "#gone"]


def public() -> list[str]:
    """The public names: the package's own, those of every room that lists its names, and all methods."""
    rooms = ("rewards", "editing", "check")
    listed = [f"iterref.{name}" for name in iterref.__all__ if name not in ROOMS]
    listed += [f"iterref.{room}.{name}" for room in rooms for name in import_module(f"iterref.{room}").__all__]
    return listed + [f"{get(name).__module__}.{get(name).__name__}" for name in names()]


def imported() -> set[str]:
    """Every name that code on the pages imports from the package."""
    found = set()
    for page in (ROOT / "README.md", *PAGES):
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for module, what in re.findall(r"^from (iterref[\w.]*) import \(?([\w, ]+)", block, re.MULTILINE):
                found |= {f"{module}.{name.strip()}" for name in what.split(",") if name.strip()}
    return found


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    known = referred(site)
    assert sorted(set(public()) - known) == []
    assert "iterref.rewards.NoSuchReward" not in known and len(public()) > 60


def test_what_the_pages_import_is_in_the_reference(site: Path) -> None:
    used = imported()
    assert len(used) > 20
    assert sorted(used - referred(site)) == []


def test_the_files_and_tests_that_pages_name_are_there() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    files = set(re.findall(r"(?:iterref|benchmarks|tests|examples)/[\w/]+\.(?:py|txt|sh)", text))
    written = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    tests = set(re.findall(r"`(test_\w+)`", text))
    assert len(files) > 30 and [name for name in sorted(files) if not (ROOT / name).is_file()] == []
    assert tests and [name for name in sorted(tests) if f"def {name}(" not in written] == []


def test_the_pages_write_methods_as_they_are_now() -> None:
    """Every method string with options, in prose and in code, is one that nothing warns about."""
    found = {
        match[0].rstrip(".,")
        for page in (ROOT / "README.md", *PAGES)
        for match in re.finditer(rf"\b(?:{'|'.join(names())}):[a-z][\w=.+,-]*", page.read_text(encoding="utf-8"))
        if "=" in match[0] and not match[0].endswith("=")
    }
    assert len(found) > 30
    for method in sorted(found):
        sampler_from_string(method)


def test_code_on_pages_fits_eighty_columns() -> None:
    """All but the examples that docs/extending.md shows as they are."""
    wide = [
        f"{page.name}: {line}"
        for page in (ROOT / "README.md", *PAGES)
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        for line in block.splitlines()
        if len(line) > 80 and page.name != "extending.md"
    ]
    assert wide == []


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(page.relative_to(ROOT / "docs").as_posix() for page in PAGES) == sorted(listed)


def test_the_pages_stay_short() -> None:
    words = {page.name: len(page.read_text(encoding="utf-8").split()) for page in (ROOT / "docs").glob("*.md")}
    assert sum(words.values()) <= WORDS, f"cut {sum(words.values()) - WORDS} words of docs/: {words}"


def example(name: str) -> str:
    """The code of an example, without what it does where it is run."""
    return (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").partition("\n\nif __name__")[0].rstrip()


def test_the_page_on_adding_shows_the_example_as_it_is() -> None:
    assert f"```python\n{example('new_sampler')}\n" in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def test_the_first_page_shows_the_readme_s_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n.*?```\n\n```\n.*?```", readme, re.DOTALL)
    assert code in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_additions_take_the_lines_that_the_page_says() -> None:
    """A reward, a method and a family: at most 10, 40 and 60 lines, blank ones left out."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    reward = next(block for block in blocks if "def eight_words_that_keep" in block).partition("\n\n\n")[0]
    for code, most in [(reward, 10), (example("new_sampler"), 40), (example("new_model"), 60)]:
        assert sum(bool(line.strip()) for line in code.splitlines()) <= most


def test_every_example_is_listed() -> None:
    listed = {ROOT / "docs" / link for link in links((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))}
    examples = {path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert examples <= {path.resolve() for path in listed}


def test_the_readme_is_short_and_names_what_it_should() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    written = re.sub(r"<!-- results.*?<!-- end -->", "", text, flags=re.DOTALL)
    assert len(html.unescape(written).split()) <= 450
    assert "make demo" in text and "make test" in text
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 1
    assert len(re.findall(r"^\|(?:-+\|)+", text.replace("---", "-"), re.MULTILINE)) == 1
