"""Whether a feature reads, writes, does both or neither, by two figures and their thresholds."""

from __future__ import annotations

READS_AUC = 0.7  # held-out AUC of its label from which a feature counts as one that reads
WRITES_NATS = 0.5  # output score from which it counts as one that writes: 1.65 times likelier


def does(reads: float | None, writes: float | None) -> str | None:
    """ "reads", "writes", "both" or "neither" by its two figures; None unless both are known.

    reads: the held-out AUC of its label, writes: its output score in nats.
    """
    if reads is None or writes is None:
        return None
    able = (reads >= READS_AUC, writes >= WRITES_NATS)
    return {(True, True): "both", (True, False): "reads", (False, True): "writes"}.get(
        able, "neither"
    )
