"""Steering: edits as values, steered generation, and finding the features that write."""

from monoscope.steer.edits import Ablate, Add, Edit, Scale, Set, parse_edit
from monoscope.steer.generate import Generation, generate

__all__ = ["Ablate", "Add", "Edit", "Generation", "Scale", "Set", "generate", "parse_edit"]
