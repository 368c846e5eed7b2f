"""`llmobs judge check` as an operator runs it."""

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from support.judge_server import Fault, JudgeServer, Seen, honest, verdicts

from llmobs.cli import cli
from llmobs.detect.tier3_judge.calibration import load_calibration
from llmobs.detect.tier3_judge.check import builtin_cases


def _knowing(seen: Seen) -> Any:
    """Answers as the labels of the fixed set have it."""
    material = " ".join(seen.material.split())
    case = max(
        (
            c
            for c in builtin_cases()
            if c.failure_class in seen.classes and " ".join(c.text.split()) in material
        ),
        key=lambda c: len(c.text),
    )
    return verdicts(seen, 0.9 if case.expected else 0.1)


async def _run(server: JudgeServer | None, *arguments: str, **more: str) -> Result:
    environment = dict.fromkeys(("GROQ_API_KEY", "OLLAMA_BASE_URL", "JUDGE_BASE_URL"), "") | more
    if server is not None:
        environment |= {"JUDGE_BASE_URL": server.openai_url, "JUDGE_MODEL": server.model}
    runner = CliRunner()
    return await asyncio.to_thread(runner.invoke, cli, ["judge", "check", *arguments], env=environment)


async def test_a_judge_above_the_bar_is_fit() -> None:
    async with JudgeServer(_knowing) as server:
        result = await _run(server, "--at-once", "4", LLMOBS_JUDGE_CALLS_PER_MINUTE="1")
    assert result.exit_code == 0, result.output
    assert "agreement   60 of 60" in result.output
    assert "6 of 6 judged as labelled all the same" in result.output
    assert "tokens      6,000 in, 1,200 out; cost unknown" in result.output
    assert result.output.rstrip().endswith("fit")
    assert len(server.asked) == 60


async def test_a_judge_below_the_bar_is_refused_with_reasons() -> None:
    async with JudgeServer(honest) as server:
        result = await _run(server)
    assert result.exit_code == 1
    assert "NOT FIT" in result.output
    assert "is below 85%" in result.output
    async with JudgeServer() as server:
        server.fault = Fault.PROSE
        result = await _run(server, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["answered"], told["failures"]) == (0, {"openai: the reply did not hold the form, twice": 60})


async def test_without_a_judge_it_says_what_to_set() -> None:
    result = await _run(None)
    assert result.exit_code != 0
    assert "no judge is configured" in str(result.exception)


async def test_labelled_files_are_asked_about_and_make_curves(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"r{n}",
            "task": "toxicity" if n % 3 else "secret",
            "label": n % 2,
            "role": "response",
            "text": f"Text {n}" + (" of the gadfly" if n % 2 else ""),
        }
        for n in range(90)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = tmp_path / "curves.json"
    async with JudgeServer(honest) as server:
        result = await _run(server, "--data", str(path), "--calibrate", str(curves), "--at-once", "8")
        assert result.exit_code == 0, result.output
        assert "agreement   60 of 60" in result.output, "rows about secrets are not the judge's"
        calibration = load_calibration(curves)
        assert set(calibration.curves) == {"toxicity"}
        assert calibration.model == "openai/scripted"
        assert calibration.score("toxicity", [0.95]) > 0.9
        result = await _run(server, "--data", str(path), "--limit", "6", LLMOBS_JUDGE_CALIBRATION=str(curves))
        assert "uncalibrated" not in result.output
