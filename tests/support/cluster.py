"""A Kubernetes API to install into: the one that LLMOBS_TEST_KUBECONFIG names, or one of our own on loopback.

Our own needs `etcd` (Debian: etcd-server) and LLMOBS_TEST_KUBERNETES: a folder with kube-apiserver and
kube-controller-manager, plain or `.xz`. It has no node: what a node does, the test does. KUBECONFIG is not looked at,
lest a test installs into a cluster that somebody works with.
"""

import contextlib
import json
import lzma
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.helm import CHART, ROOT, tool
from support.service import free_port

_START_SECONDS = 90
TOKEN = "test-token"


class Cluster:
    """An API server with the controllers of deployments and jobs."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.env = {
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(folder),
            "HELM_CACHE_HOME": str(folder / "cache"),
            "HELM_CONFIG_HOME": str(folder / "config"),
            "HELM_DATA_HOME": str(folder / "data"),
        }
        self.minor = int(self.kubectl_json("version")["serverVersion"]["minor"].rstrip("+"))
        self.chart = CHART if self.minor >= 25 else _relaxed(folder)

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool("kubectl"), *arguments],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def kubectl_json(self, *arguments: str) -> Any:
        done = self.kubectl(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def items(self, kinds: str, namespace: str, *more: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.kubectl_json("get", kinds, "-n", namespace, *more)["items"]
        return found


def _relaxed(folder: Path) -> Path:
    """A copy of the chart that an older API server takes; what it cannot know is switched off by values."""
    copy = folder / "llmobs"
    shutil.copytree(CHART, copy)
    told = yaml.safe_load((copy / "Chart.yaml").read_text())
    told["kubeVersion"] = ">=1.19.0-0"
    (copy / "Chart.yaml").write_text(yaml.safe_dump(told))
    return copy


def binary(name: str) -> str:
    """Path of a Kubernetes binary; skips the test where there is none."""
    folder = os.environ.get("LLMOBS_TEST_KUBERNETES")
    if not folder:
        pytest.skip(
            "no Kubernetes: set LLMOBS_TEST_KUBERNETES (a folder with its binaries) or LLMOBS_TEST_KUBECONFIG"
        )
    plain, packed = Path(folder) / name, Path(folder) / f"{name}.xz"
    if plain.exists():
        return str(plain)
    if not packed.exists():
        pytest.skip(f"no {name} in LLMOBS_TEST_KUBERNETES")
    place = ROOT / ".cache/kubernetes" / f"{name}-{packed.stat().st_size}"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        made = place.with_suffix(f".{os.getpid()}")
        with lzma.open(packed) as source, made.open("wb") as target:
            shutil.copyfileobj(source, target)
        made.chmod(0o755)
        made.rename(place)
    return str(place)


@contextlib.contextmanager
def processes() -> Iterator[Any]:
    """Starts processes, each with a log, and ends them in the opposite order."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: Sequence[str], log: Path, **more: Any) -> subprocess.Popen[bytes]:
        with log.open("ab") as sink:
            started.append(subprocess.Popen(command, stdout=sink, stderr=sink, **more))
        return started[-1]

    try:
        yield start
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """The cluster that the environment names, or else one of our own."""
    named = os.environ.get("LLMOBS_TEST_KUBECONFIG")
    if named:
        yield Cluster(Path(named), folder)
        return
    server, controllers = binary("kube-apiserver"), binary("kube-controller-manager")
    etcd = shutil.which("etcd")
    if etcd is None:
        pytest.skip("no etcd: apt-get install etcd-server")
    with processes() as start:
        yield _start(folder, start, etcd, server, controllers)


def _start(folder: Path, start: Any, etcd: str, server: str, controllers: str) -> Cluster:
    store, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    port = free_port()
    start(
        [
            etcd,
            *(
                "--data-dir",
                str(folder / "etcd"),
                "--listen-client-urls",
                store,
                "--advertise-client-urls",
                store,
            ),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *("--initial-cluster", f"default={peers}", "--unsafe-no-fsync"),
        ],
        folder / "etcd.log",
    )
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (folder / "sa.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    api = start(
        [
            server,
            *("--etcd-servers", store, "--bind-address", "127.0.0.1", "--secure-port", str(port)),
            *("--insecure-port", "0", "--cert-dir", str(folder / "pki"), "--authorization-mode", "RBAC"),
            *("--token-auth-file", str(folder / "tokens.csv"), "--service-cluster-ip-range", "10.0.0.0/24"),
            *("--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-signing-key-file", str(folder / "sa.key")),
            *("--service-account-key-file", str(folder / "sa.pub")),
            *("--disable-admission-plugins", "ServiceAccount"),
            "--kubelet-preferred-address-types=InternalIP",
        ],
        folder / "apiserver.log",
    )
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "test",
                        "cluster": {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True},
                    }
                ],
                "users": [{"name": "admin", "user": {"token": TOKEN}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                "current-context": "test",
            }
        )
    )
    _await_ready(port, api, folder / "apiserver.log")
    start(
        [
            controllers,
            *("--kubeconfig", str(kubeconfig), "--leader-elect=false", "--secure-port", "0", "--port", "0"),
            "--controllers=deployment,replicaset,endpoint,endpointslice,job,namespace,serviceaccount,garbagecollector",
        ],
        folder / "controllers.log",
    )
    return Cluster(kubeconfig, folder)


def _await_ready(port: int, api: subprocess.Popen[bytes], log: Path) -> None:
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE  # its certificate is of its own making
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/readyz", headers={"authorization": f"Bearer {TOKEN}"}
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(request, timeout=5, context=unchecked) as answer,
        ):
            if answer.status == 200:
                return
        assert api.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
