"""A node for the cluster of `support.cluster`: kubelet, scheduler, containerd and a bridge, as root on this machine.

Pods get addresses of SUBNET, which this machine reaches; nothing outside does. There is no kube-proxy, so that
Services are not routed: ask the addresses of their Endpoints, as a kube-proxy would. Everything that is made here
goes with the block: containers, mounts, network namespaces, the bridge.
"""

import contextlib
import json
import os
import platform
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from support.cluster import Cluster, binary, processes
from support.service import free_port

NODE = "n1"
BRIDGE = "llmobs-test0"
SUBNET = "10.88.76"
GATEWAY = f"{SUBNET}.1"
"""This machine, as pods see it."""
_PAUSE = "localhost/llmobs-pause:test"
_PLUGINS = Path("/usr/lib/cni")


def needed() -> None:
    """Skips the test where a node cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("a kubelet needs root")
    if os.environ.get("LLMOBS_TEST_KUBECONFIG"):
        pytest.skip("LLMOBS_TEST_KUBECONFIG names a cluster with nodes of its own, which hold no such image")
    if platform.machine() != "x86_64":
        pytest.skip("the pause container is written for x86-64")
    for program, package in (("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {package}")
    if not (_PLUGINS / "bridge").exists():
        pytest.skip("no CNI plugins: apt-get install containernetworking-plugins")
    if Path(f"/sys/class/net/{BRIDGE}").exists():
        pytest.skip(f"there is a {BRIDGE} already: another run's, or `ip link del {BRIDGE}`")
    for name in ("kubelet", "kube-scheduler"):
        binary(name)


def _call(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _wait_program() -> bytes:
    """A static x86-64 program that waits for signals for ever: what holds a pod's network namespace."""
    code = bytes.fromhex("b822000000 0f05 ebf7")  # again: mov eax, 34 (pause); syscall; jmp again
    base, header = 0x400000, 64 + 56
    size = header + len(code)
    return (
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096)
        + code
    )


class Node:
    """The running node; `folder` is short, for sockets lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = str(folder / "c.sock")

    def ctr(self, *arguments: str, check: bool = True) -> str:
        return _call("ctr", "-a", self.socket, "-n", "k8s.io", *arguments, check=check)

    def answers(self) -> bool:
        asked = ["ctr", "-a", self.socket, "--connect-timeout", "1s", "version"]
        return subprocess.run(asked, capture_output=True).returncode == 0

    def load(self, archive: Path) -> None:
        """Import a `docker-archive`."""
        self.ctr("images", "import", "--snapshotter", _snapshotter(), str(archive))

    def name(self, image: str, another: str) -> None:
        """Give an image one more name."""
        self.ctr("images", "tag", image, another)


def _snapshotter() -> str:
    return "overlayfs" if "overlay" in Path("/proc/filesystems").read_text() else "native"


@contextlib.contextmanager
def running_node(cluster: Cluster) -> Iterator[Node]:
    """A Ready node of the cluster, with a scheduler."""
    folder = Path(tempfile.mkdtemp(prefix="lo-", dir="/tmp"))  # a socket's path has 107 bytes
    node = Node(folder)
    _call("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        _call("ip", "addr", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        _call("ip", "link", "set", BRIDGE, "up")
        _write_configuration(node)
        before = set(_namespaces())
        try:
            with processes() as start:
                start(["containerd", "--config", str(folder / "containerd.toml")], folder / "containerd.log")
                _until(node.answers, 60, folder / "containerd.log")
                _load_pause(node)
                try:
                    with processes() as start_more:
                        _start_kubernetes(cluster, node, start_more)
                        yield node
                finally:
                    _end_containers(node)
        finally:
            for name in set(_namespaces()) - before:
                _call("ip", "netns", "del", name, check=False)
    finally:
        _unmount(folder)
        _call("ip", "link", "del", BRIDGE, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _call("ip", "netns", "list", check=False).splitlines() if line]


def _write_configuration(node: Node) -> None:
    folder = node.folder
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    (folder / "containerd.toml").write_text(
        f"""version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{node.socket}"
[{cri}]
sandbox_image = "{_PAUSE}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
[{cri}.containerd]
snapshotter = "{_snapshotter()}"
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.cni]
bin_dir = "{_PLUGINS}"
conf_dir = "{folder}/net.d"
"""
    )
    (folder / "net.d").mkdir()
    network = {
        "cniVersion": "0.4.0",
        "name": "llmobs-test",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "addresses"),
                    "ranges": [[{"subnet": f"{SUBNET}.0/24", "gateway": GATEWAY}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    (folder / "net.d/10-test.conflist").write_text(json.dumps(network))
    (folder / "resolv.conf").write_text("")
    (folder / "kubelet.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "KubeletConfiguration",
                "address": GATEWAY,
                "port": free_port(),
                "healthzPort": 0,
                "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
                "authorization": {"mode": "AlwaysAllow"},  # on the bridge, which ends at this machine
                "cgroupDriver": "cgroupfs",
                "cgroupsPerQOS": False,
                "enforceNodeAllocatable": [],
                "failSwapOn": False,
                "featureGates": {"LocalStorageCapacityIsolation": False},
                "makeIPTablesUtilChains": False,
                "resolvConf": str(folder / "resolv.conf"),
                # The machine's disk is not ours to watch.
                "evictionHard": {"memory.available": "50Mi"},
                "imageGCHighThresholdPercent": 100,
            }
        )
    )


def _load_pause(node: Node) -> None:
    """An image of one file, written as `docker save` would."""
    place = node.folder / "pause"
    (place / "layer").mkdir(parents=True)
    (place / "layer/pause").write_bytes(_wait_program())
    (place / "layer/pause").chmod(0o755)
    _call("tar", "-C", str(place / "layer"), "-cf", str(place / "layer.tar"), "pause")
    digest = _call("sha256sum", str(place / "layer.tar")).split()[0]
    (place / "config.json").write_text(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": ["/pause"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
        )
    )
    (place / "manifest.json").write_text(
        json.dumps([{"Config": "config.json", "RepoTags": [_PAUSE], "Layers": ["layer.tar"]}])
    )
    archive = place / "pause.tar"
    _call("tar", "-C", str(place), "-cf", str(archive), "config.json", "manifest.json", "layer.tar")
    node.load(archive)


def _start_kubernetes(cluster: Cluster, node: Node, start: object) -> None:
    assert callable(start)
    folder, kubeconfig = node.folder, str(cluster.kubeconfig)
    start(
        [
            binary("kubelet"),
            *("--kubeconfig", kubeconfig, "--config", str(folder / "kubelet.yaml")),
            *("--root-dir", str(folder / "kubelet"), "--cert-dir", str(folder / "pki")),
            *("--container-runtime", "remote"),
            *("--container-runtime-endpoint", f"unix://{node.socket}"),
            *("--hostname-override", NODE, "--node-ip", GATEWAY),
        ],
        folder / "kubelet.log",
    )
    start(
        [
            binary("kube-scheduler"),
            *("--kubeconfig", kubeconfig, "--leader-elect=false"),
            *("--port", "0", "--secure-port", str(free_port()), "--bind-address", "127.0.0.1"),
            *("--cert-dir", str(folder / "pki-scheduler")),
        ],
        folder / "scheduler.log",
    )
    _until(lambda: _ready(cluster), 90, folder / "kubelet.log")
    # The controller that would do it does not run here.
    cluster.kubectl("taint", "node", NODE, "node.kubernetes.io/not-ready-")


def _ready(cluster: Cluster) -> bool:
    done = cluster.kubectl("get", "node", NODE, "-o", "json")
    if done.returncode != 0:
        return False
    conditions: list[Mapping[str, str]] = json.loads(done.stdout)["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _end_containers(node: Node) -> None:
    for task in node.ctr("tasks", "list", "-q", check=False).split():
        node.ctr("tasks", "kill", "-s", "KILL", task, check=False)
    for task in node.ctr("tasks", "list", "-q", check=False).split():
        node.ctr("tasks", "delete", "-f", task, check=False)
    for container in node.ctr("containers", "list", "-q", check=False).split():
        node.ctr("containers", "delete", container, check=False)


def _unmount(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((one for one in mounted if one.startswith(f"{folder}/")), reverse=True):
        _call("umount", "-l", place, check=False)


def _until(look: object, seconds: float, log: Path) -> None:
    assert callable(look)
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.3)
