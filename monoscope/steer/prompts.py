"""Neutral prompts: openings that leave the subject open, on which features are tried."""

from __future__ import annotations

NEUTRAL_PROMPTS = (
    "My favourite thing in the world is",
    "The most important thing to know is",
    "Let me tell you about",
    "Once upon a time",
)
