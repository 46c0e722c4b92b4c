"""docs/design/training.md shows the recipes as they are."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import recipes


def test_the_tables_are_those_of_the_code():
    assert recipes.in_page() == recipes.tables(), "run: python tests/docs/recipes.py"
