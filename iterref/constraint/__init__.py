"""Constraints: regular languages that clean samples are drawn from, exactly, and how they are written down."""
