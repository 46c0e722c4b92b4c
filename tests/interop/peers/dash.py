"""SAEDashboard: whether its own classes take our batches, and say the same of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

if __name__ == "__main__":
    for path in sorted(Path(sys.argv[2]).glob("batch-*.json")):
        ours = json.loads(path.read_text())
        theirs = NeuronpediaDashboardBatch(**ours).to_dict()
        assert json.loads(json.dumps(theirs)) == ours, path
    print("ok")
