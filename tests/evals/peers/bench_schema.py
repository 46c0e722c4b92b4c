"""Reads a result file as SAEBench's own CoreEvalOutput and prints what came back."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict

warnings.filterwarnings("ignore")

from pydantic import TypeAdapter  # noqa: E402
from sae_bench.evals.core.eval_output import CoreEvalOutput  # noqa: E402

with open(sys.argv[1]) as file:
    told = json.load(file)
read = asdict(TypeAdapter(CoreEvalOutput).validate_python(told))
print(json.dumps({"same": read == told, "keys": list(read), "config": list(read["eval_config"])}))
