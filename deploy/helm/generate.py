"""Writes what the chart has from elsewhere: its schema, its README, the alerts and the dashboard.

`python docs/generate.py` calls this with the documentation's tables, and with `--check` holds all of it to be
up to date.

- `values.schema.json`: strict, every key of values.yaml with its type. `config` and `secrets` take exactly the
  settings of `llmobs.settings`, with their bounds.
- `README.md`: a row for each value, from the `# --` comments of values.yaml.
- `files/`: the alerts of deploy/prometheus and the dashboard of deploy/grafana. A chart may read its own files
  only, so it carries copies.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from llmobs.settings import SECRETS, Settings, env_name, file_name

CHART = Path(__file__).parent / "llmobs"
DEPLOY = Path(__file__).parents[1]
COPIES = {
    "files/alerts.yml": DEPLOY / "prometheus/alerts.yml",
    "files/llmobs.json": DEPLOY / "grafana/llmobs.json",
}

OURS = frozenset({"api_host", "api_port", "database_url", "spool_dir", "rules_dir", "policies_dir"})
"""Settings that the chart sets itself, from other values."""
SECRET = re.compile(r"_(key|pepper|secret|token|password)$")
"""Names of settings that belong into a Secret."""

Schema = dict[str, Any]


def text(**more: Any) -> Schema:
    return {"type": "string", **more}


def number(low: int, high: int | None = None) -> Schema:
    return {"type": "integer", "minimum": low, **({} if high is None else {"maximum": high})}


def one_of(*values: Any) -> Schema:
    return {"enum": list(values)}


def exactly(**properties: Schema) -> Schema:
    """An object with these keys and no other."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def table(of: Schema) -> Schema:
    """An object with any keys, whose values are such."""
    return {"type": "object", "additionalProperties": of}


def items(of: Schema) -> Schema:
    return {"type": "array", "items": of}


FREE: Schema = {"type": "object"}
"""An object that Kubernetes defines; its own API holds it to its form."""
FLAG: Schema = {"type": "boolean"}
TEXTS = table(text())
PORT = number(1, 65535)
SIZE = text(pattern=r"^[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?$")
SECONDS = text(pattern=r"^([0-9]+(ms|s|m|h))+$")
DIGEST = text(pattern=r"^(sha256:[0-9a-f]{64})?$")
PULL = one_of("Always", "IfNotPresent", "Never")
QUANTITY: Schema = {"anyOf": [SIZE, {"type": "number", "minimum": 0}]}
RESOURCES = exactly(
    requests=table(QUANTITY),
    limits=table(QUANTITY),
    claims=items(FREE),
)
VARIABLE: Schema = {
    "type": "object",
    "properties": {"name": text(minLength=1), "value": text(), "valueFrom": FREE},
    "required": ["name"],
    "additionalProperties": False,
}
FILES: Schema = {
    "type": "object",
    "patternProperties": {r"^[A-Za-z0-9._-]+\.toml$": text(minLength=1)},
    "additionalProperties": False,
}
AUTO = one_of(True, False, "auto")


def probe() -> Schema:
    return exactly(
        path=text(pattern="^/"),
        periodSeconds=number(1),
        timeoutSeconds=number(1),
        failureThreshold=number(1),
    )


def settings() -> tuple[Schema, Schema]:
    """The settings that are no secrets, and those that are."""
    told = msgspec.json.schema(Settings)
    known = told["$defs"]
    plain: dict[str, Schema] = {}
    secret: dict[str, Schema] = {}
    for field, found in known["Settings"]["properties"].items():
        if field in OURS:
            continue
        made = {name: value for name, value in found.items() if name not in {"default", "$ref", "anyOf"}}
        for part in (found, *found.get("anyOf", ())):
            if "$ref" in part:
                made |= {"enum": known[part["$ref"].rpartition("/")[2]]["enum"]}
        (secret if SECRET.search(field) else plain)[env_name(field)] = made
        if field in SECRETS:  # the path of a file is no secret; what is in it comes by a volume
            plain[file_name(field)] = text(
                description=f"File that holds {env_name(field)} instead, in one of extraVolumes."
            )
    return (
        exactly(**plain) | {"patternProperties": {"^OTEL_[A-Z_]+$": text()}},
        exactly(**secret) | {"patternProperties": {"^OTEL_EXPORTER_OTLP_([A-Z]+_)?HEADERS$": text()}},
    )


def schema() -> Schema:
    """What values.yaml may hold."""
    config, secrets = settings()
    peers = items(FREE)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the llmobs chart",
        **exactly(
            **{"global": FREE},
            nameOverride=text(maxLength=48),
            fullnameOverride=text(maxLength=48),
            image=exactly(
                repository=text(minLength=1), tag=text(pattern=r"^[\w.-]*$"), digest=DIGEST, pullPolicy=PULL
            ),
            imagePullSecrets=items({**exactly(name=text(minLength=1)), "required": ["name"]}),
            workload=one_of("Deployment", "StatefulSet"),
            replicaCount=number(1),
            revisionHistoryLimit=number(0),
            config=config,
            secrets=secrets,
            existingSecret=text(),
            database=exactly(
                url=text(pattern="^(postgres(ql)?(\\+asyncpg)?://.+)?$"),
                existingSecret=exactly(name=text(), key=text(minLength=1)),
                migrate=one_of("auto", "hook", "init", "none"),
            ),
            migration=exactly(backoffLimit=number(0), activeDeadlineSeconds=number(1), resources=RESOURCES),
            postgresql=exactly(
                enabled=FLAG,
                image=exactly(
                    repository=text(minLength=1),
                    tag=text(pattern=r"^[\w.-]*$"),
                    digest=DIGEST,
                    pullPolicy=PULL,
                ),
                user=number(1),
                password=text(),
                persistence=exactly(enabled=FLAG, size=SIZE, storageClass=text()),
                resources=RESOURCES,
            ),
            persistence=exactly(
                enabled=FLAG,
                existingClaim=text(),
                size=SIZE,
                storageClass=text(),
                accessModes=items(
                    one_of("ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany", "ReadOnlyMany")
                )
                | {"minItems": 1},
                annotations=TEXTS,
                keep=FLAG,
                emptyDirLimit=SIZE,
            ),
            rules=FILES,
            policies=FILES,
            otlp=exactly(endpoint=text(pattern="^(https?://.+)?$"), protocol=one_of("http/protobuf", "grpc")),
            extraEnv=items(VARIABLE),
            extraEnvFrom=items(exactly(prefix=text(), configMapRef=FREE, secretRef=FREE)),
            extraVolumes=items(FREE | {"required": ["name"]}),
            extraVolumeMounts=items(FREE | {"required": ["name", "mountPath"]}),
            serviceAccount=exactly(create=FLAG, name=text(), annotations=TEXTS),
            service=exactly(
                type=one_of("ClusterIP", "NodePort", "LoadBalancer"),
                port=PORT,
                nodePort=number(0, 65535),
                annotations=TEXTS,
            ),
            containerPort=number(1024, 65535),
            resources=RESOURCES,
            probes=exactly(startup=probe(), liveness=probe(), readiness=probe()),
            preStopSeconds=number(0),
            terminationGracePeriodSeconds=number(1),
            minReadySeconds=number(0),
            strategy=FREE,
            autoscaling=exactly(
                enabled=FLAG,
                minReplicas=number(1),
                maxReplicas=number(1),
                targetCPUUtilizationPercentage=number(0),
                targetMemoryUtilizationPercentage=number(0),
                metrics=items(FREE),
                behavior=FREE,
            ),
            podDisruptionBudget=exactly(
                enabled=FLAG,
                maxUnavailable={"anyOf": [number(1), text(pattern="^[0-9]{1,3}%$")]},
            ),
            networkPolicy=exactly(
                enabled=FLAG,
                **{"from": peers},
                dns=exactly(to=peers),
                database=exactly(to=peers, port=number(0, 65535)),
                judge=exactly(to=peers, ports=items(PORT)),
                otlp=exactly(to=peers),
                extraEgress=items(FREE),
            ),
            ingress=exactly(
                enabled=FLAG,
                className=text(),
                annotations=TEXTS,
                hosts=items(
                    {
                        **exactly(
                            host=text(),
                            paths=items(
                                {
                                    **exactly(
                                        path=text(pattern="^/"),
                                        pathType=one_of("Prefix", "Exact", "ImplementationSpecific"),
                                    ),
                                    "required": ["path", "pathType"],
                                }
                            ),
                        ),
                        "required": ["host", "paths"],
                    }
                ),
                tls=items(exactly(secretName=text(), hosts=items(text()))),
            ),
            httpRoute=exactly(
                enabled=FLAG,
                annotations=TEXTS,
                parentRefs=items(FREE | {"required": ["name"]}),
                hostnames=items(text()),
                path=text(pattern="^/"),
            ),
            metrics=exactly(
                serviceMonitor=exactly(
                    enabled=AUTO,
                    interval=SECONDS,
                    scrapeTimeout=SECONDS,
                    labels=TEXTS,
                    authorization=FREE,
                    metricRelabelings=items(FREE),
                ),
                prometheusRule=exactly(enabled=AUTO, labels=TEXTS),
                dashboard=exactly(enabled=FLAG, labels=TEXTS, annotations=TEXTS),
            ),
            test=exactly(key=exactly(secretName=text(), secretKey=text(minLength=1))),
            commonLabels=TEXTS,
            podLabels=TEXTS,
            podAnnotations=TEXTS,
            podSecurityContext=FREE,
            securityContext=FREE,
            priorityClassName=text(),
            nodeSelector=TEXTS,
            tolerations=items(FREE),
            affinity=FREE,
            topologySpreadConstraints=items(
                FREE | {"required": ["maxSkew", "topologyKey", "whenUnsatisfiable"]}
            ),
        ),
    }


_LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]\w*):(?: (?P<value>.+))?$")


def rows(values: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each value that has a `# --` comment; ValueError for a leaf without one."""
    path: list[str] = []
    meaning = ""
    lines = values.splitlines()
    told_above = -1
    for number_, line in enumerate(lines):
        stripped = line.strip()
        if stripped.startswith("# -- "):
            meaning = stripped[5:]
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        depth = len(found["indent"]) // 2
        if told_above >= 0 and depth > told_above:
            continue  # part of a default that is told as a whole
        told_above = -1
        del path[depth:]
        path.append(found["key"])
        if meaning:
            default = found["value"] or _block(lines[number_ + 1 :], len(found["indent"]))
            yield ".".join(path), default, meaning
            meaning, told_above = "", depth
        elif found["value"]:
            raise ValueError(f"values.yaml: {'.'.join(path)} has no comment")


def _block(lines: list[str], indent: int) -> str:
    """A default of several lines, on one."""
    inner = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indent and not line.lstrip().startswith("- "):
            break
        if line.strip().startswith("#") or (line.strip() and not line.startswith(" " * (indent + 1))):
            break
        inner.append(line.strip())
    return " ".join(inner).strip()


HEAD = """# llmobs chart

Runs [llmobs](../../../README.md) on Kubernetes 1.25 to 1.37. How to install, upgrade and roll back:
[docs/kubernetes.md](../../../docs/kubernetes.md). This page is made from the comments of `values.yaml` by
`python docs/generate.py`; unknown values are refused.

| value | default | meaning |
|---|---|---|
"""


def readme() -> str:
    """A row for each value."""
    found = rows((CHART / "values.yaml").read_text(encoding="utf-8"))
    return HEAD + "".join(
        f"| `{key}` | `{default.replace('|', chr(92) + '|')}` | {meaning} |\n"
        for key, default, meaning in found
    )


def outputs() -> dict[Path, str]:
    """Text of each file that is made."""
    made = {
        CHART / "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        CHART / "README.md": readme(),
    }
    for name, source in COPIES.items():
        if source.exists():
            made[CHART / name] = source.read_text(encoding="utf-8")
    return made
