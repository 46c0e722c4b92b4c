"""Reads a result file as SAEBench's own CoreEvalOutput; prints what came back or was refused."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict

warnings.filterwarnings("ignore")

from pydantic import TypeAdapter, ValidationError  # noqa: E402
from sae_bench.evals.core.eval_output import CoreEvalOutput  # noqa: E402

with open(sys.argv[1]) as file:
    told = json.load(file)
try:
    read = asdict(TypeAdapter(CoreEvalOutput).validate_python(told))
except ValidationError as exc:
    print(json.dumps({"refused": sorted({error["loc"][1] for error in exc.errors()})}))
    sys.exit()
print(json.dumps({"same": read == told, "keys": list(read), "config": list(read["eval_config"])}))
