"""The API against its own OpenAPI document: whatever is sent, no answer is a 5xx, each is typed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import tiny
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from monoscope.features.atlas import load_atlas
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig
from monoscope.viewer.engine import Engine, Loaded

EXAMPLES = 12  # of each operation in either mode: some seconds in all, the same in every run
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


class Kept(Engine):
    """An engine that the app does not close: schemathesis starts and ends the app as it goes."""

    def close(self) -> None:
        """Left to the fixture."""

    def end(self) -> None:
        super().close()


@pytest.fixture(scope="module")
def app(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """A viewer of atlases of its own, to write to, with a model that answers in no time."""
    home = tmp_path_factory.mktemp("openapi")
    for name in ("atlas", "atlas-small", "sae", "sae-small"):
        shutil.copytree(slide / name, home / name)
    config = ViewerConfig(atlas=home / "atlas", runs=home, names=("testserver",))
    atlas = load_atlas(config.atlas)
    lm = tiny.language_model()
    loaded = Loaded(lm, tiny.autoencoder(lm, atlas.n_features), atlas, "tiny")
    engine = Kept(config, atlas, load=lambda: loaded)
    engine.start()
    yield create_app(config, engine=engine)
    engine.end()


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_ends_in_a_server_error(app: FastAPI, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    tried = [try_out(found.ok(), mode) for found in schema.get_all_operations()]
    assert sum(tried) > 20  # operations; a document that lost its paths would pass unseen


def try_out(operation: Any, mode: GenerationMode) -> bool:
    """Send made-up requests to one operation; False where none can be wrong."""

    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        answer = case.call()
        case.validate_response(answer, checks=CHECKS)

    try:
        send()
    except Unsatisfiable:  # an operation that takes nothing cannot be asked wrongly
        return False
    except Exception as exc:
        exc.add_note(f"while asking {operation.label}, {mode.value}")
        raise
    return True
