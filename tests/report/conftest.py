"""The browser of this folder's tests."""

from tests.support.browser import chromium, visit

__all__ = ["chromium", "visit"]
