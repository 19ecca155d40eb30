"""Exact worlds: models whose every distribution is known, so that a method's error can be measured."""
