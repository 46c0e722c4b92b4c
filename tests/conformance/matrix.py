"""Prints the matrix recipe × property: .venv/bin/python -m tests.conformance.matrix"""

from __future__ import annotations

import sys
import traceback

from rich.console import Console
from rich.table import Table

from tests.conformance.properties import PROPERTIES, Property
from tests.conformance.world import VARIANTS, Variant


def verdict(variant: Variant, promise: Property) -> str:
    """yes, NO, or – where the promise is not for this recipe."""
    if not promise.when(variant):
        return "–"
    try:
        promise.check(variant)
    except Exception:
        print(f"{variant}: {promise.name}\n{traceback.format_exc()}", file=sys.stderr)
        return "NO"
    return "yes"


def main() -> int:
    """Run everything and print; 1 if any promise is broken."""
    table = Table(title="recipe × property")
    table.add_column("property")
    for variant in VARIANTS:
        table.add_column(str(variant).replace("+", "\n+"), justify="center")
    kept = True
    for promise in PROPERTIES:
        row = [verdict(variant, promise) for variant in VARIANTS]
        kept &= "NO" not in row
        table.add_row(promise.name, *row)
    Console(width=230).print(table)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
