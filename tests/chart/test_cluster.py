"""Install, upgrade, rollback and uninstall into a real API server, with the real helm.

The server has no node. The test plays it for the migration Job: it runs the pod's container as a process, with the
environment that the API's own ConfigMaps and Secrets give, and reports how it ended.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from support.cluster import Cluster, running_cluster
from support.helm import helm, tool
from support.node import Pod
from support.postgres import Server, new_database

from llmobs.settings import Settings
from llmobs.store.migrate import current
from llmobs.store.revision import head

NAMESPACE = "guard"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


class Node:
    """Runs the pods of Jobs, in a thread, for as long as the block lasts."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._over = threading.Event()
        self.ran: list[tuple[dict[str, Any], subprocess.CompletedProcess[str]]] = []
        """Each Job's object with what came of its pod."""
        self.broke: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(120)
        if self.broke is not None:
            raise self.broke

    def _work(self) -> None:
        try:
            while not self._over.wait(0.3):
                wanted = "app.kubernetes.io/component=migrate"
                for pod in self._cluster.items("pods", NAMESPACE, "-l", wanted):
                    if pod["status"]["phase"] == "Pending":
                        self._run(pod)
        except BaseException as error:  # noqa: BLE001  # told by the block's end
            self.broke = error

    def _run(self, pod: dict[str, Any]) -> None:
        job = self._cluster.kubectl_json("get", "job", pod["metadata"]["labels"]["job-name"], "-n", NAMESPACE)
        told = self._cluster.items("configmaps,secrets", NAMESPACE)
        place = self._folder / pod["metadata"]["name"]
        place.mkdir()
        done = Pod(told, pod["spec"], place).run(pod["spec"]["containers"][0])
        self.ran.append((job, done))
        phase = "Succeeded" if done.returncode == 0 else "Failed"
        patch = json.dumps({"status": {"phase": phase}})
        patched = self._cluster.kubectl(
            *("patch", "pod", pod["metadata"]["name"], "-n", NAMESPACE),
            *("--subresource=status", "--type=merge", "-p", patch),
        )
        assert patched.returncode == 0, patched.stderr


@pytest.fixture
def run(cluster: Cluster) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        return helm(*arguments, "--namespace", NAMESPACE, values=values, env=cluster.env)

    return call


def _until(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.3)
    return found


@pytest.mark.timeout(500)
def test_install_upgrade_failed_upgrade_rollback_uninstall(  # noqa: PLR0915  # one life of a release
    cluster: Cluster, run: Callable[..., subprocess.CompletedProcess[str]], postgres: Server, tmp_path: Path
) -> None:
    url = new_database(postgres)
    values: dict[str, Any] = {
        "database": {"url": url},
        "replicaCount": 2,
        "podDisruptionBudget": {"enabled": cluster.minor >= 21},
        "secrets": {"LLMOBS_KEY_PEPPER": "p" * 40},
        "migration": {"backoffLimit": 0},
        "nodeSelector": {
            "example.com/played-by": "the-test"
        },  # so that no node of a whole cluster takes a pod
    }
    chart = str(cluster.chart)
    assert current(Settings(database_url=url)) is None
    with Node(cluster, tmp_path) as node:
        done = run("install", "rel", chart, "--create-namespace", "--timeout", "120s", values=values)
        assert done.returncode == 0, done.stderr
    (job, migrated) = node.ran[0]
    assert len(node.ran) == 1
    assert migrated.returncode == 0
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]
    assert job["spec"]["template"]["spec"]["enableServiceLinks"] is False
    assert current(Settings(database_url=url)) == head()
    assert "helm test rel" in done.stdout

    def deployment() -> dict[str, Any]:
        found: dict[str, Any] = cluster.kubectl_json("get", "deployment", "rel-llmobs", "-n", NAMESPACE)
        return found

    def sets() -> list[dict[str, Any]]:
        return cluster.items("replicasets", NAMESPACE)

    installed = deployment()
    assert installed["spec"]["replicas"] == 2
    _until(lambda: [one for one in sets() if one["status"]["replicas"] == 2])
    service = cluster.kubectl_json("get", "service", "rel-llmobs", "-n", NAMESPACE)
    assert service["spec"]["clusterIP"].count(".") == 3
    names = {one["metadata"]["name"] for one in cluster.items("networkpolicies", NAMESPACE)}
    assert {"rel-llmobs", "rel-llmobs-deny", "rel-llmobs-test"} <= names
    account = cluster.kubectl_json("get", "serviceaccount", "rel-llmobs", "-n", NAMESPACE)
    assert account["automountServiceAccountToken"] is False
    # The hooks are gone once they have succeeded.
    assert cluster.items("jobs", NAMESPACE) == []

    with Node(cluster, tmp_path / "second") as node:
        (tmp_path / "second").mkdir(exist_ok=True)
        changed = values | {"config": {"LOG_LEVEL": "debug"}}
        done = run("upgrade", "rel", chart, "--timeout", "120s", values=changed)
        assert done.returncode == 0, done.stderr
    assert len(node.ran) == 1
    _until(lambda: len(sets()) == 2)
    upgraded = deployment()
    assert upgraded["metadata"]["generation"] > installed["metadata"]["generation"]

    # A migration that fails ends the upgrade before any pod is touched.
    with Node(cluster, tmp_path / "third") as node:
        (tmp_path / "third").mkdir(exist_ok=True)
        broken = values | {"database": {"url": url.rpartition("/")[0] + "/missing"}, "replicaCount": 5}
        done = run("upgrade", "rel", chart, "--timeout", "120s", values=broken)
        assert done.returncode != 0
        assert "pre-upgrade" in done.stderr
    assert node.ran[0][1].returncode == 2
    assert deployment()["metadata"]["generation"] == upgraded["metadata"]["generation"]
    assert current(Settings(database_url=url)) == head()

    done = run("rollback", "rel", "1", "--timeout", "120s")
    assert done.returncode == 0, done.stderr
    back = deployment()
    assert back["spec"]["template"] == installed["spec"]["template"]
    history = yaml.safe_load(run("history", "rel", "-o", "yaml").stdout)
    assert [one["status"] for one in history] == ["superseded", "superseded", "failed", "deployed"]

    done = run("uninstall", "rel")
    assert done.returncode == 0, done.stderr
    # What is left is the Job that failed, for its log; the next install removes it.
    left = (
        "all,serviceaccounts,configmaps,secrets,networkpolicies",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/instance=rel",
    )
    _until(lambda: {one["kind"] for one in cluster.items(*left)} == {"Job", "Pod"})
    assert [one["metadata"]["name"] for one in cluster.items("jobs", NAMESPACE)] == ["rel-llmobs-migrate"]


@pytest.mark.timeout(240)
def test_the_server_itself_takes_every_variant_and_refuses_a_wrong_one(cluster: Cluster) -> None:
    with contextlib.suppress(AssertionError):
        cluster.kubectl("create", "namespace", NAMESPACE)
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"postgresql": {"enabled": True}},
        {"workload": "StatefulSet", "persistence": {"enabled": True}},
        {"ingress": {"enabled": True}, "config": {"LLMOBS_AUTH_NONE_ANYWHERE": True}},
    )
    for values in variants:
        done = helm(
            "template",
            "rel",
            cluster.chart,
            "--namespace",
            NAMESPACE,
            "--kube-version",
            f"1.{cluster.minor}.0",
            values=values,
        )
        assert done.returncode == 0, done.stderr
        taken = _apply(cluster, done.stdout)
        assert taken.returncode == 0, taken.stderr
        wrong = done.stdout.replace("protocol: TCP", "protocol: TPC")
        assert _apply(cluster, wrong).returncode != 0


def _apply(cluster: Cluster, manifests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("kubectl"), "apply", "--dry-run=server", "-n", NAMESPACE, "-f", "-"],
        input=manifests,
        env={**os.environ, **cluster.env},
        capture_output=True,
        text=True,
        timeout=120,
    )
