"""The document tells the truth: schemathesis finds no answer that it does not describe."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from support.running import Running

from llmobs.app import create_app
from llmobs.http.openapi import openapi_document
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.migrate import upgrade


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    chosen = Settings(
        database_url=f"sqlite:///{folder}/llmobs.db",
        spool_dir=str(folder / "spool"),
        store_on_failure=StoreOnFailure.REFUSE,
        subject_pepper="a pepper that only this test knows, long enough",
        log_level="error",
    )
    upgrade(chosen, "head")
    # A stream that goes on for a minute is over at once.
    patched = pytest.MonkeyPatch()
    patched.setattr("llmobs.http.live.LIFETIME", 0.02)
    running = Running(create_app(chosen))
    yield schemathesis.openapi.from_asgi("/openapi.json", running)
    running.stop()
    patched.undo()


JUDGED = {f"/v1/admin/policies/{part}" for part in ("check", "dry-run", "dry-run/labelled", "{policy_id}")}
"""Take policies. Whether one is sound (thresholds that rise, examples that it keeps) no schema can say, so a body of
the documented form may be refused; all else is checked of them too."""
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# An operation that takes nothing cannot be called wrongly.
CALLS = [
    pytest.param(path, method.upper(), mode, id=f"{method} {path} {mode.value}")
    for path, item in openapi_document(50_000, ["default", "monitor"])["paths"].items()
    for method, operation in item.items()
    for mode in ((POSITIVE, NEGATIVE) if {"parameters", "requestBody"} & set(operation) else (POSITIVE,))
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("path", "method", "mode"), CALLS)
def test_no_answer_is_undescribed(api: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = api[path][method]
    excluded = [positive_data_acceptance] if path in JUDGED else []

    # The document is generated from, not written for, this test: same seed, same cases.
    @seed(1)
    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        case.call_and_validate(excluded_checks=excluded)

    call()
