"""Code blocks of the documentation, each put to the proof as a reader would use it.

`sh` and `console` blocks run in bash, in page order, in one folder a page, and pass their variables on;
`python` runs; `json` is a request (posted) or the answer to the command before it (compared);
`toml` and `yaml` are read by what reads them in earnest, and written to the file that their first line
names (`# my-rules/house.toml`) for the blocks that follow. A block that cannot be run says why, in the
line above it: `<!-- not run: reason -->`.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import msgspec
import promql_parser
import pytest
import yaml
from support.helm import CHART
from support.helm import tool as chart_tool
from support.observed import tool as metrics_tool
from support.service import LLMOBS, Service, free_port

from llmobs.detect.tier1_patterns.pack import read_pack
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.http.schemas import DetectRequest
from llmobs.policies import read_policy

ROOT = Path(__file__).parents[2]
_NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")
_SERVES = re.compile(r"(llmobs serve|make run)\b[^&|]*$")
_START_SECONDS = 60
_STATUSES = {"llmobs detect": (0, 1, 3), "llmobs judge check": (0, 1)}
"""Of commands whose exit status tells the result; all others must end with 0."""
_PRELUDE = r"""
set -eo pipefail -o allexport
[ -e .state ] && source .state
curl() { command curl --fail-with-body --max-time 30 "$@"; }
make() { command make -o .venv/run.stamp -o .venv/dev.stamp "$@"; }
# No cluster here: what would be installed is rendered, by the real helm with the page's own arguments.
helm() {
    case $1 in
        install|upgrade) shift; "$HELM" template "$@" > rendered.yaml && test -s rendered.yaml ;;
        *) "$HELM" "$1" --help > /dev/null ;;
    esac
}
kubectl() { :; }
"""
_KEEP = "\nexport -p > .state\n"


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    reason: str
    """Why it is not run; empty where it is."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order; ValueError for a fence that is never closed."""
    opened, fence, language, held, before, reason = 0, "", "", [""], "", ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        bare = line.strip()
        if fence:
            if bare == fence:
                yield Block(page, opened, language, "\n".join(held) + "\n", reason)
                fence, before = "", ""
            else:
                held.append(line)
        elif found := re.match(r"(`{3,}|~{3,})\s*(.*)", bare):
            fence, language, opened, held = found[1], found[2].strip(), number, []
            told = _NOT_RUN.fullmatch(before)
            reason = told[1] if told else ""
        elif bare:
            before = bare
    if fence:
        raise ValueError(f"{page}:{opened}: a fence that is never closed")


def serves(block: Block) -> bool:
    """Whether its last command is a server in the foreground."""
    return block.language == "sh" and _SERVES.search(block.text.strip().splitlines()[-1]) is not None


def starts_a_server(page: list[Block]) -> bool:
    return any("llmobs serve" in block.text or serves(block) for block in page if not block.reason)


class Scene:
    """One page's folder, server and variables."""

    def __init__(self, folder: Path, shared: Service | None, *, encoder: bool = False) -> None:
        self.folder = folder
        self.output = ""
        """What the last command printed."""
        self.placeholders: dict[str, str] = {}
        """What the page writes, and what stands for it here."""
        self._port = shared.port if shared else free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("LLMOBS_", "OTEL_"))
            and name not in {"GROQ_API_KEY", "JUDGE_BASE_URL", "OLLAMA_BASE_URL", "DATABASE_URL"}
        } | {
            "PATH": f"{Path(LLMOBS).parent}:{os.environ['PATH']}",
            "API_PORT": str(self._port),
            "LLMOBS_DRAIN_SECONDS": "0",
            "COLUMNS": "120",
            "LLMOBS_ENCODER": "true" if encoder else "false",
        }
        if shared:
            for name in ("DATABASE_URL", "LLMOBS_SUBJECT_PEPPER"):
                self._environ[name] = shared.environ[name]
        for name in ("Makefile", "deploy", "docs", "examples", "src", "tests", "migrations", "alembic.ini"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(Path(sys.prefix))
        (folder / "var").mkdir()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self._processes.clear()

    def prove(self, block: Block) -> str:
        """`run` or `parsed`; AssertionError, with the place, where the block is wrong."""
        match block.language:
            case "sh" if serves(block):
                self._serve(block)
            case "sh":
                self._shell(block, block.text)
                if re.search(r"^\s*(helm|kubectl) ", block.text, re.MULTILINE):
                    return "parsed"
                if all(re.match(r"\s*(export\s+)?\w+=\S|#|\s*$", line) for line in block.text.splitlines()):
                    self._shell(
                        block, "llmobs config show"
                    )  # only settings: the service's own reader decides
            case "console":
                self._console(block)
            case "python":
                path = self.folder / f"block_{block.line}.py"
                path.write_text(self._filled(block.text), encoding="utf-8")
                self._shell(block, f"python -W error {path.name}")
            case "json":
                return self._json(block)
            case "toml" | "yaml":
                self._configuration(block)
                return "parsed"
            case "promql":
                promql_parser.parse(block.text)
                return "parsed"
            case "javascript":
                node = shutil.which("node") or pytest.skip("no node here")
                done = subprocess.run(
                    [node, "--check", "-"], input=block.text, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{block.place}: {done.stderr}"
                return "parsed"
            case _:
                raise AssertionError(
                    f"{block.place}: {block.language or 'no language'!r}, and no reason given"
                )
        return "run"

    def _filled(self, text: str) -> str:
        text = re.sub(r"(localhost|127\.0\.0\.1):8000", f"127.0.0.1:{self._port}", text)
        for written, meant in self.placeholders.items():
            text = text.replace(written, meant)
        return text

    def _start(self, text: str) -> tuple[subprocess.Popen[bytes], Path]:
        if re.search(r"\bhelm ", text):
            self._environ["HELM"] = chart_tool("helm")
        # One for each: a server of an earlier block goes on writing to its own.
        log = self.folder / f".output-{len(self._processes)}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", _PRELUDE + self._filled(text) + _KEEP],
                cwd=self.folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process, log

    def _shell(self, block: Block, text: str) -> str:
        statuses = next((codes for name, codes in _STATUSES.items() if name in text), (0,))
        process, log = self._start(text)
        status = process.wait(60)
        self.output = log.read_text(errors="replace")
        assert status in statuses, f"{block.place}: exit status {status}\n{self.output[-3000:]}"
        return self.output

    def _serve(self, block: Block) -> None:
        self.close()  # the page's server before it, if there was one
        process, log = self._start(block.text)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health/ready", timeout=5):
                return
            told = log.read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"{block.place}: ended\n{told}"
            assert time.monotonic() < deadline, f"{block.place}: not ready\n{told}"
            time.sleep(0.05)

    def _console(self, block: Block) -> None:
        """Commands after `$ `, each with the output that it is said to have."""
        parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{block.place}: output before any command"
        for part in parts[1:]:
            lines = part.splitlines()
            count = 1
            while lines[count - 1].endswith("\\"):
                count += 1
            printed = self._shell(block, "\n".join(lines[:count]))
            at = 0
            for line in filter(str.strip, lines[count:]):
                found = _stable(line).search(printed, at)
                assert found, f"{block.place}: not printed: {line!r} in\n{printed[-3000:]}"
                at = found.end()
                # A later command that repeats a figure or digest of this line means the real one.
                for one, other in zip(line.split(), found[0].split(), strict=False):
                    if one != other and len(one) > 3:
                        self.placeholders[one] = other

    def _json(self, block: Block) -> str:
        told = json.loads(block.text)
        if "llm_response" in told:
            msgspec.json.decode(block.text, type=DetectRequest)
            request = urllib.request.Request(
                f"{self.url}/v1/detect", block.text.encode(), {"content-type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 200, block.place
            return "run"
        _within(told, json.loads(self.output), block.place)
        return "run"

    def _configuration(self, block: Block) -> None:
        if named := re.match(r"# ([\w./-]+\.(?:toml|ya?ml))\n", block.text):
            path = self.folder / named[1]
        else:
            path = self.folder / f"block_{block.line}.{block.language}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        if block.language == "toml":
            told = tomllib.loads(block.text)
            if "rule" in told:
                pack = read_pack(path)
                assert [list(broken_proofs(pack, rule)) for rule in pack.rule] == [[] for _ in pack.rule]
            else:
                read_policy(path)
            return
        given = yaml.safe_load(block.text)
        if named and named[1] == "values.yaml":
            jsonschema.validate(given, json.loads((CHART / "values.schema.json").read_text()))
            return
        checks = "rules" if "groups" in given else "config"
        assert {"groups", "scrape_configs"} & given.keys(), f"{block.place}: nobody knows what reads this"
        with contextlib.suppress(pytest.skip.Exception):
            done = subprocess.run(
                [metrics_tool("promtool"), "check", checks, path], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block.place}: {done.stdout}{done.stderr}"


def _stable(line: str) -> re.Pattern[str]:
    """A documented line with numbers, spacing and words that end in `...` left open."""
    return re.compile(
        r"\s+".join(
            r"\S+" if word.endswith("...") else re.sub(r"\d[\d,]*(\\\.\d+)?", r"[\\d.,]+", re.escape(word))
            for word in line.split()
        )
    )


def _within(told: Any, found: Any, place: str) -> None:
    """Everything documented is in the answer, with its value; `"..."` stands for any."""
    match told:
        case dict():
            for name, value in told.items():
                assert name in found, f"{place}: no {name} in {sorted(found)}"
                _within(value, found[name], f"{place} {name}")
        case list():
            assert len(told) == len(found), f"{place}: {found}"
            for one, other in zip(told, found, strict=True):
                _within(one, other, place)
        case "...":
            pass
        case float():
            assert isinstance(found, int | float), f"{place}: {found!r}"
        case _:
            assert told == found, f"{place}: documented {told!r}, is {found!r}"
