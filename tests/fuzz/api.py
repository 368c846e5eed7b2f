"""`make fuzz-api MINUTES=10`: made-up requests to every operation of a real service, with credentials and without.

The corpus (`api.jsonl`) goes first. Then schemathesis makes requests from the service's own description, fit ones and unfit
ones, round after round with another seed, until the time is up. What is looked for: a 5xx answer, an answer that the
description does not know, one that takes longer than `--hang` seconds, a worker that dies, a traceback in the log,
and an operation that lets in who shows no key. A request that does any of that is added to the corpus, which the ordinary
tests send from then on, and the exit status is 1. `--record` writes the corpus anew.
"""

import argparse
import base64
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import httpx  # noqa: E402  # after the path to the tests' own parts
import schemathesis  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance  # noqa: E402
from support.access import PEPPER, bearer, in_registry_now  # noqa: E402
from support.service import Service  # noqa: E402

from llmobs.access.registry import Registry  # noqa: E402
from llmobs.domain.access import Scope  # noqa: E402
from llmobs.settings import Settings  # noqa: E402

CORPUS = HERE / "api.jsonl"
LARGEST = 3000
"""Bytes of a body that the corpus keeps."""
EXAMPLES = 15
JUDGED = {f"/v1/admin/policies/{part}" for part in ("check", "dry-run", "dry-run/labelled", "{policy_id}")}
"""Take policies, and no schema can say whether one is sound: of these a body of the documented form may be refused."""
CREDENTIALS = ("x-api-key", "authorization")
AS_SENT = ("content-length", "host", "user-agent", "connection", "accept", "accept-encoding")


def described(request: Any) -> dict[str, Any]:
    """A request as the corpus holds it, without credentials."""
    body = request.body.encode() if isinstance(request.body, str) else request.body
    headers = {
        name: value.decode("latin-1") if isinstance(value, bytes) else value
        for name, value in request.headers.items()
        if name.lower() not in {*CREDENTIALS, *AS_SENT} and not name.lower().startswith("x-schemathesis")
    }
    return {
        "method": request.method,
        "path": request.path_url,
        "headers": headers,
        "body": None if body is None else base64.b64encode(body).decode(),
    }


def corpus() -> list[dict[str, Any]]:
    """The requests that are kept."""
    return [json.loads(line) for line in CORPUS.read_text().splitlines()] if CORPUS.exists() else []


def body_of(kept: dict[str, Any]) -> bytes | None:
    """The body of a request that is kept."""
    return None if kept["body"] is None else base64.b64decode(kept["body"])


class Fuzzer:
    """One service, and what came of asking it."""

    def __init__(self, service: Service, key: str, hang: float) -> None:
        self.service, self.key, self.hang = service, key, hang
        self.statuses: dict[str, Counter[int]] = {"with key": Counter(), "without": Counter()}
        self.calls: Counter[str] = Counter()
        self.found: list[dict[str, Any]] = []
        self.recorded: dict[tuple[str, ...], dict[str, Any]] = {}
        self.slowest = 0.0
        self.api = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
        self.operations = [result.ok() for result in self.api.get_all_operations()]

    def replay(self) -> None:
        """Send the corpus."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.service.port}", timeout=self.hang) as client:
            for kept in corpus():
                for who, more in (("with key", bearer(self.key)), ("without", {})):
                    try:
                        answer = client.request(
                            kept["method"],
                            kept["path"],
                            headers=kept["headers"] | more,
                            content=body_of(kept),
                        )
                    except httpx.HTTPError as error:
                        self._failed(kept, who, type(error).__name__)
                        continue
                    self._seen(who, "corpus", answer.status_code, answer.elapsed.total_seconds())
                    if answer.status_code >= 500:
                        self._failed(kept, who, f"status {answer.status_code}")

    def round(self, number: int, over: Callable[[], bool]) -> None:
        """Made-up requests to every operation."""
        for operation in self.operations:
            takes = {"parameters", "requestBody"} & set(operation.definition.raw)
            for mode in GenerationMode if takes else (GenerationMode.POSITIVE,):
                for who in self.statuses:
                    if over():
                        return
                    self._ask(operation, mode, who, number)

    def _ask(self, operation: Any, mode: GenerationMode, who: str, number: int) -> None:
        with_key = who == "with key"
        guarded = "security" in operation.definition.raw
        last: list[Any] = []

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def call(case: Any) -> None:
            for name in CREDENTIALS:
                case.headers.pop(name, None)
                case.headers.pop(name.title(), None)
                case.headers.pop("X-API-Key", None)
            last[:] = [None]
            answer = case.call(headers=bearer(self.key) if with_key else None, timeout=self.hang)
            last[:] = [described(answer.request)]
            self._seen(who, operation.label, answer.status_code, answer.elapsed)
            self.recorded.setdefault((operation.label, mode.value), last[0])
            assert answer.status_code < 500, f"status {answer.status_code}"
            if guarded and not with_key:
                assert answer.status_code == 401, f"let in with {answer.status_code}"
            excluded = [ignored_auth]
            if operation.path in JUDGED:
                excluded.append(positive_data_acceptance)
            case.validate_response(answer, excluded_checks=excluded)

        try:
            call()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            told = str(error).strip() or repr(error)
            self._failed(last[0] if last else None, who, f"{operation.label} {mode.value}: {told[:600]}")

    def _seen(self, who: str, label: str, status: int, seconds: float) -> None:
        self.statuses[who][status] += 1
        self.calls[label] += 1
        self.slowest = max(self.slowest, seconds)

    def _failed(self, kept: dict[str, Any] | None, who: str, why: str) -> None:
        self.found.append({"who": who, "why": why})
        print(f"{who}: {why}", file=sys.stderr)
        if kept is not None and kept not in corpus():
            with CORPUS.open("a") as file:
                file.write(json.dumps(kept) + "\n")


def run(minutes: float, hang: float, first_seed: int, *, record: bool) -> int:
    """Run; 0 where nothing was found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = f"sqlite:///{folder}/llmobs.db"
        more = {
            "LLMOBS_AUTH_MODE": "keys",
            "LLMOBS_KEY_PEPPER": PEPPER,
            "LLMOBS_SUBJECT_PEPPER": PEPPER,
            "LLMOBS_RATE_LIMITS": "false",  # or nearly all answers would be 429
            "LLMOBS_ENCODER": "false",  # what is tried is the way in and out, many times a second
            "LLMOBS_CANARY_SECONDS": "0",
            "LLMOBS_QUEUE_MS": "60000",
        }
        (folder / "policies").mkdir()
        more["LLMOBS_POLICIES_DIR"] = str(folder / "policies")
        service = Service(folder, database, more)
        service.migrate()

        async def furnish(registry: Registry) -> str:
            await registry.create_client("fuzzer", tier="enterprise")
            return (await registry.create_key("fuzzer", name="", scopes=[Scope.ADMIN], by="fuzz")).shown

        key = in_registry_now(Settings(database_url=database), furnish)
        service.start(path="/health/live")
        try:
            workers = service.workers()
            fuzzer = Fuzzer(service, key, hang)
            until = time.monotonic() + minutes * 60
            fuzzer.replay()
            number = first_seed
            while time.monotonic() < until:
                fuzzer.round(number, lambda: time.monotonic() >= until)
                number += 1
            if service.workers() != workers:
                fuzzer.found.append({"who": "service", "why": "a worker died"})
            tracebacks = service.log_path.read_text(errors="replace").count("Traceback")
            if tracebacks:
                fuzzer.found.append({"who": "service", "why": f"{tracebacks} tracebacks in its log"})
        finally:
            service.stop()
    if record:
        kept = {
            json.dumps(each): None for each in fuzzer.recorded.values() if len(each["body"] or "") < LARGEST
        }
        CORPUS.write_text("".join(f"{line}\n" for line in kept))
    print(json.dumps({
        "minutes": minutes,
        "operations": len(fuzzer.operations),
        "rounds": number - first_seed,
        "requests": sum(fuzzer.calls.values()),
        "least_requests_to_an_operation": min(fuzzer.calls[each.label] for each in fuzzer.operations),
        "statuses": {who: dict(sorted(counts.items())) for who, counts in fuzzer.statuses.items()},
        "slowest_ms": round(1000 * fuzzer.slowest, 1),
        "found": fuzzer.found,
    }, indent=2))  # fmt: skip
    return 1 if fuzzer.found else 0


def main() -> int:
    """Read the arguments and run."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--hang", type=float, default=15.0, help="seconds that one answer may take")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--record", action="store_true", help="keep one request of each kind as the corpus")
    given_ = asked.parse_args()
    return run(given_.minutes, given_.hang, given_.seed, record=given_.record)


if __name__ == "__main__":
    sys.exit(main())
