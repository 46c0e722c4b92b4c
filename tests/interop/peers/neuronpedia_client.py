"""Neuronpedia's own client: whether it would send our batches as they are, and read our rows."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from neuronpedia.np_activation import Activation
from neuronpedia.np_explanation import Explanation
from neuronpedia.np_feature import Feature, Logit
from neuronpedia.requests.feature_request import FeatureRequest


def feature(model: str, source: str, f: dict) -> Feature:
    """The client's own object for one of our features."""

    def logits(rows):
        return None if rows is None else [Logit(**row) for row in rows]

    about = (model, source, f["index"])
    return Feature(
        *about,
        density=f["density"],
        top_logits=logits(f["topLogits"]),
        bottom_logits=logits(f["bottomLogits"]),
        explanations=[
            Explanation(*about, e["text"], e["methodName"], e["modelName"])
            for e in f["explanations"]
        ],
        activations=[Activation(*about, **a) for a in f["activations"]],
    )


if __name__ == "__main__":
    folder, sent = Path(sys.argv[2]), []
    request = FeatureRequest(api_key="none")
    request.send_request = lambda method, uri, json: sent.append(json)
    for path in sorted((folder / "upload").glob("batch-*.json")):
        ours = json.loads(path.read_text())
        model, source = ours["modelId"], ours["source"]
        request.upload_batch(model, source, [feature(model, source, f) for f in ours["features"]])
        assert sent.pop() == ours, path
    for table, kind in (("activations", Activation), ("explanations", Explanation)):
        for path in (folder / table).glob("*.gz"):
            for line in gzip.decompress(path.read_bytes()).splitlines():
                row = json.loads(line)  # the API says source where the database says layer
                kind.from_np_db_json(row | {"source": row["layer"]})
    print("ok")
