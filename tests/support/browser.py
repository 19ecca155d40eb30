"""A real browser for pages: Debian's `chromium`, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs the browser `chromium`, which is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page's text in a window of its own. Every error of its console, and every request beyond the file and the
    data in it, fails the test at its end."""
    contexts, wrong = [], []

    def opened(text: str, scheme: str = "light", width: int = 1000, errors: bool = False) -> Any:
        contexts.append(chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(20_000)
        if not errors:
            tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else 0)
            tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if request.url[:5] not in LOCAL else 0)
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        tab.goto((tmp_path / "page.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


LOCAL = ("file:", "data:", "about", "blob:")  # of a frame's own text, and of what is downloaded

# The contrast of every piece of text to whatever lies behind it, by the rule of the Web Content Accessibility
# Guidelines 2.1 (1.4.3), the least over the stripes where there are any.
CONTRAST = r"""() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parts = (text) => [...text.matchAll(/rgba?\(([^)]+)\)/g)].map((m) => m[1].split(/[ ,/]+/).map(Number));
  const opaque = (c) => c.length === 3 || c[3] === 1;
  const behind = (element) => {
    const found = [];
    for (let at = element; at; at = at.parentElement) {
      const style = getComputedStyle(at);
      found.push(...parts(style.backgroundImage).filter(opaque));
      const colour = parts(style.backgroundColor)[0];
      if (opaque(colour)) return [...found, colour];
    }
    return [...found, [255, 255, 255]];
  };
  const out = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("script, noscript")) continue;
    const style = getComputedStyle(element);
    const ink = light(parts(element.closest("svg") ? style.fill : style.color)[0]);
    for (const ground of behind(element)) {
      const [low, high] = [ink, light(ground)].sort((a, b) => a - b);
      out.push([(high + 0.05) / (low + 0.05), element.getAttribute("class") ?? ""]);
    }
  }
  return out;
}"""
