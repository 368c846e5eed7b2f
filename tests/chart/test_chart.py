"""The chart: what helm makes of it is valid, restricted, and what the service understands."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.helm import (
    CHART,
    CI_FILES,
    NEWEST,
    OLDEST,
    ROOT,
    Manifest,
    environment,
    helm,
    only,
    pod_specs,
    refusal,
    render,
)

from llmobs import __version__
from llmobs.serve import SPARE_SECONDS
from llmobs.settings import SECRETS, Settings, env_name, file_name, load_settings

pytestmark = pytest.mark.timeout(240)
"""Programs are started, and CI's cores may be busy."""

CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute"}
"""Kinds that clusters have only once somebody brought their definitions."""
EXTERNAL = {"database": {"url": "postgresql://llmobs:pass%40word@db.example.com:6432/llmobs"}}


def _values(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


@pytest.fixture(scope="module", params=CI_FILES, ids=lambda path: path.stem.removesuffix("-values"))
def variant(request: pytest.FixtureRequest) -> tuple[Path, list[Manifest]]:
    return request.param, render(request.param)


def test_lint_has_nothing_to_say(variant: tuple[Path, list[Manifest]]) -> None:
    done = helm("lint", "--strict", CHART, "--values", variant[0])
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_oldest_and_the_newest_kubernetes_know_every_field(
    variant: tuple[Path, list[Manifest]], version: str
) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    manifests = render(variant[0], "--kube-version", f"{version}.0")
    known = [one for one in manifests if one["kind"] not in CUSTOM]
    assert len(known) >= 6
    for one in known:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed() -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    service = only(render(), "Service")
    service["spec"]["ports"][0]["target"] = "http"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, OLDEST, strict=True)


def test_every_pod_is_restricted(variant: tuple[Path, list[Manifest]]) -> None:
    specs = pod_specs(variant[1])
    assert len(specs) >= 2  # the service and helm's test at least
    for spec in specs:
        assert spec["automountServiceAccountToken"] is False
        # Or else LLMOBS_SERVICE_HOST would appear, and an unknown LLMOBS_* setting keeps the service from starting.
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "privileged": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")
            assert all(port["protocol"] == "TCP" for port in container.get("ports", ()))


def test_objects_are_in_the_namespace_and_tell_whose_they_are(variant: tuple[Path, list[Manifest]]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in variant[1]]
    assert len(names) == len(set(names))
    for one in variant[1]:
        assert one["metadata"]["namespace"] == "guard"
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "rel"
        assert labels["app.kubernetes.io/version"] == __version__


def test_selectors_find_their_own_pods_only(variant: tuple[Path, list[Manifest]]) -> None:
    manifests = variant[1]
    workloads = [one for one in manifests if one["kind"] in {"Deployment", "StatefulSet"}]
    for service in (one for one in manifests if one["kind"] == "Service"):
        wanted = service["spec"]["selector"].items()
        found = [w for w in workloads if wanted <= w["spec"]["template"]["metadata"]["labels"].items()]
        assert len(found) == 1
    for one in workloads:
        assert (
            one["spec"]["selector"]["matchLabels"].items()
            <= one["spec"]["template"]["metadata"]["labels"].items()
        )


def test_secrets_are_in_secrets_only() -> None:
    manifests = render(
        EXTERNAL | {"secrets": {"GROQ_API_KEY": "gsk-planted", "LLMOBS_KEY_PEPPER": "planted-" * 5}}
    )
    for one in manifests:
        told = json.dumps(one)
        assert "pass%40word" not in told
        assert "planted" not in told
    job = only(manifests, "Job")["spec"]["template"]["spec"]["containers"][0]
    service = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    for container in (job, service):
        found = environment(manifests, container)
        assert found["DATABASE_URL"] == EXTERNAL["database"]["url"]
        assert found["GROQ_API_KEY"] == "gsk-planted"


def test_every_secret_can_come_from_a_file_that_is_mounted() -> None:
    names = {file_name(field) for field in SECRETS} - {"DATABASE_URL_FILE"}
    files = {name: f"/etc/secrets/{name.lower()}" for name in (*names, "LLMOBS_KEY_PEPPER_FILE")}
    manifests = render(
        EXTERNAL
        | {
            "config": files,
            "extraVolumes": [{"name": "secrets", "secret": {"secretName": "llmobs-files"}}],
            "extraVolumeMounts": [{"name": "secrets", "mountPath": "/etc/secrets", "readOnly": True}],
        }
    )
    for kind in ("Job", "Deployment"):
        pod = only(manifests, kind)["spec"]["template"]["spec"]
        assert "llmobs-files" in [volume.get("secret", {}).get("secretName") for volume in pod["volumes"]]
        container = pod["containers"][0]
        assert "/etc/secrets" in [mount["mountPath"] for mount in container["volumeMounts"]]
        found = environment(manifests, container)
        assert {name: found[name] for name in files} == files
    assert "LLMOBS_SUBJECT_PEPPER_FILE" in names
    assert "DATABASE_URL_FILE" in refusal({"config": {"DATABASE_URL_FILE": "/x"}})


def _plain_settings() -> dict[str, Any]:
    """Every setting that `config` takes, with a value that is not its default where that is easy."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    made: dict[str, Any] = {}
    files = {file_name(field) for field in SECRETS}  # those name files, which are not there
    for name, found in schema["properties"]["config"]["properties"].items():
        if name in files:
            continue
        field = next(f for f in Settings.__struct_fields__ if env_name(f) == name)
        default = getattr(Settings(), field)
        if isinstance(default, bool):
            made[name] = not default
        elif isinstance(default, int):
            made[name] = min(default + 1, found.get("maximum", default + 1))
        elif isinstance(default, float):
            made[name] = default + 0.5
        elif "enum" in found:
            made[name] = found["enum"][-1]
        else:
            made[name] = str(default)
    return made


def test_the_service_understands_every_setting_as_it_was_given() -> None:
    given = _plain_settings()
    assert len(given) > 50
    manifests = render({"config": given})
    container = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    understood = load_settings(environment(manifests, container))
    for name, value in given.items():
        field = next(f for f in Settings.__struct_fields__ if env_name(f) == name)
        assert str(getattr(understood, field)) == str(value), name
    assert understood.api_host == "0.0.0.0"
    assert understood.spool_dir.startswith("/data/")


def test_large_numbers_keep_their_digits() -> None:
    data = only(render({"config": {"LLMOBS_SPOOL_MAX_BYTES": 268_435_456}}), "ConfigMap")["data"]
    assert data["LLMOBS_SPOOL_MAX_BYTES"] == "268435456"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicas": 3}, "replicas"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"replicaCount": 0}, "/replicaCount"),
        ({"replicaCount": "two"}, "/replicaCount"),
        ({"config": {"LLMOBS_RETENTION_DAY": 1}}, "LLMOBS_RETENTION_DAY"),
        ({"config": {"LLMOBS_RETENTION_DAYS": -1}}, "/config/LLMOBS_RETENTION_DAYS"),
        ({"config": {"STORE_TEXT": "plain"}}, "/config/STORE_TEXT"),
        ({"config": {"GROQ_API_KEY": "x"}}, "GROQ_API_KEY"),
        ({"config": {"DATABASE_URL": "sqlite:///x"}}, "DATABASE_URL"),
        ({"secrets": {"LOG_LEVEL": "info"}}, "LOG_LEVEL"),
        ({"database": {"url": "mysql://x"}}, "/database/url"),
        ({"service": {"port": 70000}}, "/service/port"),
        ({"containerPort": 80}, "/containerPort"),
        ({"persistence": {"size": "much"}}, "/persistence/size"),
        ({"rules": {"a.yaml": "x"}}, "a.yaml"),
        ({"metrics": {"serviceMonitor": {"enabled": "maybe"}}}, "/metrics/serviceMonitor/enabled"),
        ({"extraEnv": [{"nome": "A"}]}, "nome"),
    ],
    ids=str,
)
def test_the_schema_refuses(values: dict[str, Any], told: str) -> None:
    message = refusal(values)
    assert "schema" in message
    assert told in message


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicaCount": 2}, "SQLite serves one pod"),
        ({"autoscaling": {"enabled": True}}, "SQLite serves one pod"),
        (EXTERNAL | {"postgresql": {"enabled": True}}, "exclude each other"),
        ({"database": {"url": "postgresql://h/d", "existingSecret": {"name": "s"}}}, "exclude each other"),
        ({"database": {"migrate": "hook"}}, "needs a database that is there before"),
        (EXTERNAL | {"replicaCount": 2, "persistence": {"enabled": True}}, "one volume claim serves one pod"),
        ({"persistence": {"existingClaim": "mine"}}, "persistence.existingClaim needs"),
        ({"networkPolicy": {"enabled": False}}, "strangers could call it"),
        ({"networkPolicy": {"from": []}}, "strangers could call it"),
        ({"ingress": {"enabled": True}}, "strangers could call it"),
        ({"service": {"type": "LoadBalancer"}}, "strangers could call it"),
        ({"httpRoute": {"enabled": True}, "config": {"LLMOBS_AUTH_NONE_ANYWHERE": True}}, "name the Gateway"),
        ({"terminationGracePeriodSeconds": 54}, "a pod needs 55 to end"),
        ({"preStopSeconds": 16}, "a pod needs 61 to end"),
        ({"config": {"LLMOBS_DRAIN_SECONDS": 11}}, "a pod needs 61 to end"),
        ({"config": {"LLMOBS_REQUEST_TIMEOUT_SECONDS": 35.5}}, "a pod needs 61 to end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_it_is_installed(values: dict[str, Any], told: str) -> None:
    assert told in refusal(values)


def _objects(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if schema.get("type") == "object":
        yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from _objects(schema["items"], f"{path}[]")


def test_schema_and_values_name_the_same_keys() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = _values(CHART / "values.yaml")

    def differing(schema: Mapping[str, Any], values: Mapping[str, Any], path: str) -> Iterator[str]:
        if schema.get("additionalProperties") is not False or not values:
            return
        if set(values) <= {"requests", "limits"}:
            return  # of Kubernetes' own keys those that are used
        yield from (f"{path}.{name}" for name in schema["properties"].keys() ^ values.keys())
        for name, child in schema["properties"].items():
            if isinstance(values.get(name), dict) and child.get("type") == "object":
                yield from differing(child, values[name], f"{path}.{name}")

    assert list(differing(schema, values, "")) == [".global"]  # helm's own, for charts that contain this one


def test_only_what_kubernetes_defines_is_free_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {path for path, found in _objects(schema) if "additionalProperties" not in found}
    assert free == {
        ".global",
        ".strategy",
        ".affinity",
        ".podSecurityContext",
        ".securityContext",
        ".autoscaling.behavior",
        ".autoscaling.metrics[]",
        ".extraEnv[].valueFrom",
        ".extraEnvFrom[].configMapRef",
        ".extraEnvFrom[].secretRef",
        ".extraVolumes[]",
        ".extraVolumeMounts[]",
        ".httpRoute.parentRefs[]",
        ".metrics.serviceMonitor.authorization",
        ".metrics.serviceMonitor.metricRelabelings[]",
        ".migration.resources.claims[]",
        ".networkPolicy.database.to[]",
        ".networkPolicy.dns.to[]",
        ".networkPolicy.extraEgress[]",
        ".networkPolicy.from[]",
        ".networkPolicy.judge.to[]",
        ".networkPolicy.otlp.to[]",
        ".postgresql.resources.claims[]",
        ".resources.claims[]",
        ".tolerations[]",
        ".topologySpreadConstraints[]",
    }


def _ports(policy: Manifest) -> set[int]:
    return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_the_network_policy_lets_out_to_what_is_configured_and_nowhere_else() -> None:
    manifests = render(CHART / "ci/external-values.yaml")
    policies = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "NetworkPolicy"}
    assert set(policies) == {"rel-llmobs-deny", "rel-llmobs", "rel-llmobs-migrate", "rel-llmobs-test"}
    deny = policies["rel-llmobs-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    service = policies["rel-llmobs"]
    assert _ports(service) == {53, 6432, 443, 8080, 4318, 3128}
    assert all(
        rule.get("to")
        for rule in service["spec"]["egress"]
        if {"port": 3128, "protocol": "TCP"} not in rule["ports"]
    )
    assert _ports(policies["rel-llmobs-migrate"]) == {53, 6432, 3128}
    for one in manifests:
        for policy in (one,) if one["kind"] == "NetworkPolicy" else ():
            assert all(rule["ports"] for rule in policy["spec"].get("egress", ()))


def test_without_judge_and_collector_nothing_but_names_and_the_database_is_let_out() -> None:
    assert _ports(only(render(), "NetworkPolicy", "rel-llmobs")) == {53}
    assert _ports(only(render(EXTERNAL), "NetworkPolicy", "rel-llmobs")) == {53, 6432}
    named = {"database": {"existingSecret": {"name": "s"}}}
    assert _ports(only(render(named), "NetworkPolicy", "rel-llmobs")) == {53, 5432}


def test_a_database_of_yours_is_migrated_by_a_job_before_anything_else() -> None:
    manifests = render(EXTERNAL | {"secrets": {"GROQ_API_KEY": "x"}})
    job = only(manifests, "Job")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "before-hook-creation" in notes["helm.sh/hook-delete-policy"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["migrate"]
    # What it reads is a hook as well and comes earlier: of the release itself nothing is there yet.
    kinds = {"configMapRef": "ConfigMap", "secretRef": "Secret"}
    read = {(kinds[ref], name["name"]) for source in container["envFrom"] for ref, name in source.items()}
    read.add(("Secret", container["env"][0]["valueFrom"]["secretKeyRef"]["name"]))
    assert len(read) == 3
    for kind, name in read:
        told = only(manifests, kind, name)["metadata"]["annotations"]
        assert told["helm.sh/hook"] == notes["helm.sh/hook"]
        assert int(told["helm.sh/hook-weight"]) < int(notes["helm.sh/hook-weight"])
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    assert "initContainers" not in only(manifests, "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", [{}, {"postgresql": {"enabled": True}, "replicaCount": 2}])
def test_a_database_of_the_release_is_migrated_before_each_pod(values: dict[str, Any]) -> None:
    manifests = render(values)
    assert not [one for one in manifests if one["kind"] == "Job"]
    spec = only(manifests, "Deployment")["spec"]["template"]["spec"]
    first, container = spec["initContainers"][0], spec["containers"][0]
    assert first["args"] == ["migrate"]
    assert container["args"] == ["serve"]
    assert environment(manifests, first) == environment(manifests, container)


def test_a_sqlite_file_is_never_opened_by_two_pods() -> None:
    assert only(render(), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    rolling = only(render(EXTERNAL), "Deployment")["spec"]["strategy"]
    assert rolling["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_pod_answers_on_while_routers_learn_of_its_end() -> None:
    spec = only(render(EXTERNAL), "Deployment")["spec"]["template"]["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]
    own = Settings()
    wanted = 10 + own.drain_seconds + own.request_timeout_seconds + SPARE_SECONDS
    assert spec["terminationGracePeriodSeconds"] >= wanted


def test_a_changed_setting_is_a_changed_pod_and_a_changed_rule_is_not() -> None:
    def checks(values: dict[str, Any]) -> dict[str, str]:
        return only(render(values), "Deployment")["spec"]["template"]["metadata"]["annotations"]

    rule = {"rules": {"own.toml": "[pack]"}}
    plain = checks(EXTERNAL | rule)
    assert checks(EXTERNAL | rule) == plain
    assert checks(EXTERNAL | {"rules": {"own.toml": "[pack]\n# changed"}}) == plain
    assert checks(EXTERNAL | rule | {"config": {"LOG_LEVEL": "debug"}}) != plain
    assert checks(EXTERNAL | rule | {"secrets": {"GROQ_API_KEY": "x"}}) != plain
    assert checks({"database": {"url": "postgresql://other/db"}} | rule) != plain


def test_monitors_are_made_where_the_cluster_knows_them() -> None:
    def kinds(*more: str) -> set[str]:
        return {one["kind"] for one in render({}, *more)}

    known = "monitoring.coreos.com/v1/ServiceMonitor,monitoring.coreos.com/v1/PrometheusRule"
    assert not kinds() & CUSTOM
    assert "ServiceMonitor" in kinds("--api-versions", known)
    off = "metrics.serviceMonitor.enabled=false"
    assert "ServiceMonitor" not in kinds("--api-versions", known, "--set", off)


@pytest.mark.parametrize("name", ["files/alerts.yml", "files/llmobs.json"])
def test_alerts_and_dashboard_are_those_of_the_deploy_folder(name: str) -> None:
    source = next((ROOT / "deploy").glob(f"*/{Path(name).name}"), None)
    if source is None:
        pytest.skip(f"deploy/ holds no {Path(name).name} yet")
    assert (CHART / name).read_text() == source.read_text()
    manifests = render(CHART / "ci/monitoring-values.yaml")
    if name.endswith(".yml"):
        assert only(manifests, "PrometheusRule")["spec"] == yaml.safe_load(source.read_text())
    else:
        found = only(manifests, "ConfigMap", "rel-llmobs-dashboard")
        assert json.loads(found["data"]["llmobs.json"]) == json.loads(source.read_text())


def test_the_longest_release_name_still_makes_names() -> None:
    manifests = render({"postgresql": {"enabled": True}}, release="r" * 53)
    for one in manifests:
        name = one["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 63, name


def test_the_trial_database_keeps_its_password_and_its_url_holds_it() -> None:
    manifests = render({"postgresql": {"enabled": True, "password": "p@ss/word"}})
    container = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    url = environment(manifests, container)["DATABASE_URL"]
    assert url == "postgresql://llmobs:p%40ss%2Fword@rel-llmobs-postgresql:5432/llmobs"
    secret = only(manifests, "Secret", "rel-llmobs-postgresql")
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    made = [
        environment(found, only(found, "Deployment")["spec"]["template"]["spec"]["containers"][0])[
            "DATABASE_URL"
        ]
        for found in (render({"postgresql": {"enabled": True}}) for _ in range(2))
    ]
    assert made[0] != made[1]
    assert re.search(r":[A-Za-z0-9]{32}@", made[0])


def test_chart_and_package_have_one_version() -> None:
    assert _values(CHART / "Chart.yaml")["appVersion"] == __version__


def test_notes_tell_how_to_prove_it_and_what_is_lost() -> None:
    done = helm("install", "rel", CHART, "--namespace", "guard", "--dry-run=client")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "helm test rel -n guard" in notes
    assert "LOST WITH THE POD" in notes
