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
    table = Table(title="recipe × property", caption="–: does not apply")
    table.add_column("recipe", no_wrap=True)
    for promise in PROPERTIES:
        table.add_column(promise.name, justify="center")
    kept = True
    for variant in VARIANTS:
        row = [verdict(variant, promise) for promise in PROPERTIES]
        kept &= "NO" not in row
        table.add_row(str(variant), *row)
    Console(width=190).print(table)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
