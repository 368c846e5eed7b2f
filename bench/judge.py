"""Figures of the LLM judge, with the real service in front of real sockets.

python bench/judge.py              all of it (six minutes), and figures to bench/results/judge.json
python bench/judge.py demo         a real small model and the service: a text in doubt, then from the cache
python bench/judge.py load         200 texts in doubt at once against a judge of 2 s, beside ordinary traffic
python bench/judge.py kill         the judge killed and brought back in the middle of traffic
python bench/judge.py faults       what becomes of requests under every fault
python bench/judge.py injections   forty texts that talk to a judge which obeys whatever it reads
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from report import percentile  # noqa: E402  # the path is set above
from support.faults import PATIENT  # noqa: E402  # on a busy machine 200 at once would be refused in part
from support.judge_injections import INJECTIONS  # noqa: E402  # the path is set above
from support.judge_local import environment_for, local_model  # noqa: E402
from support.judge_server import HONEST_WORD, Fault, JudgeServer, obedient  # noqa: E402

OUT = ROOT / "bench/results/judge.json"
Figures = dict[str, Any]
LLMOBS = str(Path(sys.executable).parent / "llmobs")
IN_DOUBT = "The wheelbarrow number {} stands in the rain."
ORDINARY = "The cart number {} stands in the rain, and nobody has moved it since."
RULE = """
[pack]
id = "doubtful"
failure_class = "{name}"
description = "Leaves a text in doubt."
[[rule]]
id = "doubtful.wheelbarrow"
note = "a wheelbarrow"
pattern = "wheelbarrow"
score = {score}
match = ["a ⟦wheelbarrow⟧"]
skip = ["a cart"]
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def service(
    name: str = "toxicity", score: float = 0.6, **settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    """`llmobs serve` in a process of its own, with a rule that leaves wheelbarrows in doubt."""
    folder = Path(tempfile.mkdtemp(prefix="llmobs-judge-"))
    (folder / "rules").mkdir()
    (folder / "rules/doubtful.toml").write_text(RULE.format(name=name, score=score))
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LLMOBS_")} | {
        "DATABASE_URL": f"sqlite:///{folder}/llmobs.db",
        "API_PORT": str(port),
        "LOG_LEVEL": "error",
        "LLMOBS_RULES_DIR": str(folder / "rules"),
        "LLMOBS_SPOOL_DIR": str(folder / "spool"),
        **settings,
    }
    log = (folder / "log").open("wb")
    process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
        [LLMOBS, "serve", "--migrate"],
        env=environment,
        cwd=folder,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    limits = httpx.Limits(max_connections=400, max_keepalive_connections=400)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60, limits=limits
        ) as client:
            for _ in range(600):
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/health/ready")).status_code == 200:
                        break
                if process.poll() is not None:
                    raise SystemExit((folder / "log").read_text())
                await asyncio.sleep(0.1)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


async def detect(client: httpx.AsyncClient, text: str) -> tuple[dict[str, Any], float]:
    """The answer and the seconds it took."""
    started = time.perf_counter()
    answer = await client.post("/v1/detect", json={"llm_response": text})
    answer.raise_for_status()
    return answer.json(), time.perf_counter() - started


def judged(body: dict[str, Any]) -> dict[str, Any]:
    return next(entry for entry in body["coverage"] if entry["detector"] == "judge")


def scripted(server: JudgeServer, **more: str) -> dict[str, str]:
    return {
        "JUDGE_BASE_URL": server.openai_url,
        "JUDGE_MODEL": server.model,
        "LLMOBS_ENCODER": "false",  # it would settle what these runs leave in doubt
        **more,
    }


async def demo() -> Figures:
    told: Figures = {}
    for protocol in ("openai", "ollama"):
        with local_model() as model:
            async with service(
                "overconfidence", 0.2, LLMOBS_ENCODER="false", **environment_for(model, protocol)
            ) as client:
                ready = (await client.get("/health/ready")).json()
                print(
                    f"{protocol}: ready {ready['ready']};",
                    next(c for c in ready["checks"] if c["name"] == "judge"),
                )
                text = IN_DOUBT.format("seven")
                body, seconds = await detect(client, text)
                first, method = seconds, body["method"]
                print(
                    f"  first  {seconds * 1000:8.1f} ms  tier {body['tier_used']}, method {body['method']}, {judged(body)}"
                )
                again = []
                for _ in range(20):
                    body, seconds = await detect(client, text)
                    again.append(seconds)
                print(
                    f"  again  {percentile(again, 0.5) * 1000:8.1f} ms p50 of 20 "
                    f"({body['processing_time_ms']} ms of it detection), {judged(body)}"
                )
                told[protocol] = {
                    "first_ms": round(first * 1000, 1),
                    "first_method": method,
                    "cached_p50_ms": round(percentile(again, 0.5) * 1000, 2),
                    "cached_detection_ms": body["processing_time_ms"],
                }
                logged = (await client.get("/logs/recent?limit=50")).json()["logs"]
                print(f"  record of the first: {judged(logged[-1])}")
                told[protocol]["record"] = judged(logged[-1])
    return told


async def load(rounds: int = 3) -> Figures:
    async with JudgeServer(pause_s=2.0) as server:
        settings = scripted(
            server,
            LLMOBS_JUDGE_QUEUE="1000",
            LLMOBS_TIER3_TIMEOUT_MS="30000",
            **PATIENT,
        )
        async with (
            service(**settings) as client,
            # Callers of their own: a pool looks at all of its connections for every request.
            httpx.AsyncClient(base_url=client.base_url, timeout=60) as caller,
        ):
            number = 0

            async def burst(texts: Sequence[str]) -> list[tuple[dict[str, Any], float]]:
                return await asyncio.gather(*(detect(client, text) for text in texts))

            async def ordinary(seconds: float) -> list[float]:
                nonlocal number
                times = []
                until = time.perf_counter() + seconds
                while time.perf_counter() < until:
                    number += 1
                    times.append((await detect(caller, ORDINARY.format(number)))[1])
                    await asyncio.sleep(0.005)
                return times

            await ordinary(2)
            times: dict[str, list[float]] = {"alone": [], "beside": []}
            results: list[tuple[dict[str, Any], float]] = []
            ratios = []
            for turn in range(rounds):
                # 200 at once: 40 different texts, five callers each, 10 s of a judge that takes 8 at a time.
                # The other half of the turn gets 200 texts at once that need no judge, for the same
                # bump of work. Halves change places from turn to turn.
                here: dict[str, list[float]] = {}
                for half in ("alone", "beside") if turn % 2 else ("beside", "alone"):
                    words = ORDINARY if half == "alone" else IN_DOUBT
                    others = asyncio.create_task(
                        burst([words.format(f"{turn}-{n % 40}") for n in range(200)])
                    )
                    here[half] = await ordinary(11)
                    answered = await others
                    if half == "beside":
                        results += answered
                    times[half] += here[half]
                ratios.append(round(percentile(here["beside"], 0.95) / percentile(here["alone"], 0.95), 3))
            found = Counter(judged(body)["status"] for body, _ in results)
            told: Figures = {
                "in_doubt": len(results),
                "texts": 40 * rounds,
                "statuses": dict(found),
                "asked": len(server.asked),
                "most_in_flight": server.most_in_flight,
                "limit": 8,
                "ordinary": {half: len(values) for half, values in times.items()},
                "p50_ms": {half: round(percentile(values, 0.5) * 1000, 2) for half, values in times.items()},
                "p95_ms": {half: round(percentile(values, 0.95) * 1000, 2) for half, values in times.items()},
                "p95_ratio": round(percentile(times["beside"], 0.95) / percentile(times["alone"], 0.95), 3),
                "p95_ratio_by_round": ratios,
            }
            print(
                f"in doubt: {len(results)} requests, 200 at once, {told['texts']} texts; "
                f"asked {told['asked']} times; {dict(found)}"
            )
            print(f"most in flight at the judge: {told['most_in_flight']} (limit 8)")
            print(f"ordinary: {told['ordinary']}; p50 ms {told['p50_ms']}")
            print(f"p95 ms {told['p95_ms']}: ratio {told['p95_ratio']}, by round {ratios}")
    async with JudgeServer(pause_s=2.0) as server:
        settings = scripted(server, LLMOBS_JUDGE_QUEUE="1000", LLMOBS_TIER3_TIMEOUT_MS="10000", **PATIENT)
        async with service(**settings) as client:
            started = time.perf_counter()
            texts = [IN_DOUBT.format(n % 100) for n in range(200)]
            answers = await asyncio.gather(*(detect(client, text) for text in texts))
            seconds = time.perf_counter() - started
            found = Counter(judged(body)["status"] for body, _ in answers)
            print(
                f"200 at once, 100 texts, deadline 10 s: all answered in {seconds:.1f} s; {dict(found)}; "
                f"asked {len(server.asked)} times, most in flight {server.most_in_flight}"
            )
            told["deadline_10_s"] = {
                "answered": len(answers),
                "within_s": round(seconds, 1),
                "statuses": dict(found),
                "asked": len(server.asked),
                "most_in_flight": server.most_in_flight,
            }
    return told


async def kill() -> Figures:
    deadline = 3.0
    async with JudgeServer(pause_s=0.05) as server:
        settings = scripted(
            server,
            LLMOBS_TIER3_TIMEOUT_MS=str(deadline * 1000),
            LLMOBS_JUDGE_CALL_TIMEOUT_MS="1000",
            LLMOBS_JUDGE_BREAKER_SECONDS="1",
        )
        async with service(**settings) as client:
            results: list[tuple[float, dict[str, Any], float]] = []
            began = time.perf_counter()

            async def caller(which: int) -> None:
                n = 0
                while time.perf_counter() - began < 12:
                    n += 1
                    at = time.perf_counter() - began
                    body, seconds = await detect(client, IN_DOUBT.format(f"{which}-{n}"))
                    results.append((at, body, seconds))
                    await asyncio.sleep(0.05)

            async def outage() -> None:
                await asyncio.sleep(3)
                await server.stop()
                await asyncio.sleep(4)
                await server.start()

            states: list[str] = []

            async def watch() -> None:
                while time.perf_counter() - began < 12:
                    for line in (await client.get("/metrics")).text.splitlines():
                        if line.startswith("judge_breaker_state{"):
                            state = {"0.0": "closed", "1.0": "half-open", "2.0": "open"}[line.split()[-1]]
                            if not states or states[-1].split()[0] != state:
                                states.append(f"{state} {time.perf_counter() - began:.1f} s")
                    await asyncio.sleep(0.1)

            async with asyncio.TaskGroup() as group:
                for which in range(6):
                    group.create_task(caller(which))
                group.create_task(outage())
                group.create_task(watch())
            late = sum(seconds > deadline + 0.25 for _, _, seconds in results)
            print(f"{len(results)} requests, killed from 3 s to 7 s; later than the deadline: {late}")
            print(f"slowest {max(seconds for _, _, seconds in results):.2f} s of {deadline:g} s")
            for name, low, high in (("before", 0, 3), ("killed", 3, 7), ("after", 7, 13)):
                part = [body for at, body, _ in results if low <= at < high]
                found = Counter(judged(body)["status"] for body in part)
                print(
                    f"  {name}: {len(part)} requests, {dict(found)}, degraded {sum(b['degraded'] for b in part)}"
                )
            print(f"breaker: {', '.join(states)}")
            told = (await client.get("/metrics")).text.splitlines()
            print("  " + "\n  ".join(line for line in told if line.startswith("judge_breaker_moves_total{")))
            return {
                "requests": len(results),
                "late": late,
                "slowest_s": round(max(seconds for _, _, seconds in results), 2),
                "deadline_s": deadline,
                "breaker": states,
            }


async def faults() -> Figures:
    told: Figures = {}
    deadline = 2.0
    print("| fault | requests | answered in time | judged | degraded | wrong |")
    print("|---|--:|--:|--:|--:|--:|")
    async with JudgeServer() as server:
        settings = scripted(
            server,
            LLMOBS_TIER3_TIMEOUT_MS=str(deadline * 1000),
            LLMOBS_JUDGE_CALL_TIMEOUT_MS="800",
            LLMOBS_JUDGE_BREAKER_SECONDS="0.2",
            LLMOBS_JUDGE_QUEUE="200",
        )
        async with service(**settings) as client:
            for fault in Fault:
                server.fault = fault
                texts = [
                    IN_DOUBT.format(f"{fault.name} {n}") + (f" A {HONEST_WORD}." if n % 2 else "")
                    for n in range(20)
                ]
                answers: list[tuple[dict[str, Any], float]] = []
                for start in range(0, 20, 5):
                    answers += await asyncio.gather(
                        *(detect(client, text) for text in texts[start : start + 5])
                    )
                status = [judged(body)["status"] for body, _ in answers]
                # Right: the truth where the judge answered, the policy's warning where it did not.
                right = ["block" if status[n] == "ran" and n % 2 else "warn" for n in range(20)]
                wrong = sum(
                    body["action"] != right[n] or body["degraded"] != (status[n] != "ran")
                    for n, (body, _) in enumerate(answers)
                )
                print(
                    f"| {fault.name.lower()} | 20 | {sum(s <= deadline + 0.25 for _, s in answers)} "
                    f"| {status.count('ran')} | {sum(body['degraded'] for body, _ in answers)} | {wrong} |"
                )
                told[fault.name.lower()] = {
                    "requests": 20,
                    "in_time": sum(s <= deadline + 0.25 for _, s in answers),
                    "judged": status.count("ran"),
                    "degraded": sum(body["degraded"] for body, _ in answers),
                    "wrong": wrong,
                }
                server.fault = Fault.NONE
                await asyncio.sleep(0.5)
                for n in range(50):  # until the breaker has closed again
                    body, _ = await detect(client, IN_DOUBT.format(f"{fault.name} again {n}"))
                    if judged(body)["status"] == "ran":
                        break
                    await asyncio.sleep(0.2)
                else:
                    raise SystemExit(f"no recovery after {fault.name}: {judged(body)}")
    return told


async def injections() -> Figures:
    lowered = asked = refused = 0
    for name in ("prompt_injection", "toxicity", "fabricated_fact"):
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(JudgeServer(obedient))
            client = await stack.enter_async_context(service(name, **scripted(server)))
            for text in INJECTIONS:
                body, _ = await detect(client, f"A wheelbarrow. {text}")
                lowered += body["action"] not in {"warn", "block"} or body["scores"][name] < 0.6
            asked += len(server.asked)
            for line in (await client.get("/metrics")).text.splitlines():
                if line.startswith("judge_lowerings_refused_total"):
                    refused += int(float(line.split()[-1]))
    print(
        f"{len(INJECTIONS)} texts, 3 classes warned about at 0.60, a judge that obeys them, asked {asked} times: "
        f"{lowered} verdicts lowered, {refused} lowerings refused by the control"
    )
    return {"texts": len(INJECTIONS), "classes": 3, "asked": asked, "lowered": lowered, "refused": refused}


def main() -> None:
    commands: dict[str, Callable[[], Coroutine[Any, Any, Figures]]] = {
        "demo": demo,
        "load": load,
        "kill": kill,
        "faults": faults,
        "injections": injections,
    }
    wanted = sys.argv[1:]
    if not set(wanted) <= commands.keys():
        raise SystemExit(__doc__)
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in wanted or commands:
        print(f"== {name}", flush=True)
        kept[name] = asyncio.run(commands[name]())
        OUT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
