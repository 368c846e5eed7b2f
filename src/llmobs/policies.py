"""Policies as data: TOML files with thresholds per class and examples that prove them."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from llmobs.book import Book
from llmobs.domain.audit import Deed, deed
from llmobs.domain.decision import decide
from llmobs.domain.detection import Detection, Failed, Findings, Ran, Report
from llmobs.domain.policy import ClassPolicy, Policy
from llmobs.domain.risk import Action
from llmobs.errors import PolicyInvalid

BUILTIN = Path(str(files("llmobs") / "data" / "policies"))

Policies = Mapping[str, Policy]
PolicyBook = Book[Policies]


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """These scores and failures, that action."""

    action: Action
    scores: dict[str, float] = {}
    failed: tuple[str, ...] = ()
    """Classes whose detector failed."""
    strict_mode: bool | None = None


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy as written."""

    id: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")]
    version: Annotated[int, Meta(ge=1)]
    classes: dict[Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{1,40}$")], ClassPolicy]
    description: str = ""
    client: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]{0,63}$")] | None = None
    """The client it belongs to; None: it is shared by all."""
    strict_mode: bool = False
    example: tuple[Example, ...] = ()


def policy_book(
    folder: Path | None = None, *, default: str = "default", strict_mode: bool = False
) -> PolicyBook:
    """The policies by id, reloaded when the operator's folder changes."""

    def load(current: Policies | None) -> Policies:
        found = load_policies(folder, strict_mode=strict_mode)
        if default not in found:
            raise PolicyInvalid(f"the default policy {default!r} is not among {', '.join(sorted(found))}")
        if found[default].client is not None:
            raise PolicyInvalid(f"the default policy {default!r} belongs to a client, so not all can use it")
        for name, policy in found.items():
            known = None if current is None else current.get(name)
            if known is not None and known.version == policy.version and known != policy:
                raise PolicyInvalid(
                    f"policy {name} changed but is still version {policy.version}: "
                    "verdicts name the version, so raise it"
                )
        return found

    return Book("policies", folder, load)


def shared_policies(policies: Policies) -> tuple[str, ...]:
    """The ids of those that belong to no client, in order."""
    return tuple(sorted(name for name, policy in policies.items() if policy.client is None))


def policy_deeds(policies: Policies) -> list[Deed]:
    """What the audit log is told of policies in force: a changed digest is a changed policy."""
    return [
        deed(
            "service",
            "policy.in_force",
            name,
            version=policy.version,
            sha256=hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest(),
        )
        for name, policy in sorted(policies.items())
    ]


def classes_by_example(policies: Policies) -> frozenset[str]:
    """The classes that some policy defines by example texts."""
    return frozenset(name for policy in policies.values() for name in policy.likenesses)


def load_policies(folder: Path | None = None, *, strict_mode: bool = False) -> Policies:
    """Built-in policies and, when given, the operator's, which replace built-ins of the same id."""
    found = _read_folder(BUILTIN)
    if folder is not None:
        if not folder.is_dir():
            raise PolicyInvalid(f"{folder}: no such folder")
        found |= _read_folder(folder)
    if strict_mode:
        found = {name: msgspec.structs.replace(policy, strict_mode=True) for name, policy in found.items()}
    return found


def _read_folder(folder: Path) -> dict[str, Policy]:
    found: dict[str, Policy] = {}
    for path in sorted(folder.glob("*.toml")):
        policy = read_policy(path)
        if policy.id in found:
            raise PolicyInvalid(f"{path.name}: policy {policy.id} stands in another file as well")
        found[policy.id] = policy
    return found


def read_policy(path: Path) -> Policy:
    """Parse and validate one file, its examples included. PolicyInvalid names file, class and reason."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyInvalid(f"{path.name}: {error}") from None
    return sound_policy(parsed_policy(text, path.name), path.name)


def parsed_policy(text: str, source: str) -> PolicyFile:
    """The text of a policy file, its form checked and not yet its sense. PolicyInvalid begins with `source`."""
    try:
        return msgspec.convert(tomllib.loads(text), PolicyFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise PolicyInvalid(f"{source}: {error}") from None


def sound_policy(written: PolicyFile, source: str) -> Policy:
    """The policy as it takes force. PolicyInvalid names, after `source`, the first class or example at fault."""
    for problem in policy_problems(written):
        raise PolicyInvalid(f"{source}: {problem}")
    return _as_policy(written)


def policy_problems(written: PolicyFile) -> list[str]:
    """All that is wrong with a policy of the right form, in words; empty when it is sound."""
    found = [
        f"class {name}: {problem}"
        for name, limits in written.classes.items()
        for problem in limits.problems()
    ]
    return found or list(broken_examples(_as_policy(written), written.example))


def _as_policy(written: PolicyFile) -> Policy:
    return Policy(
        id=written.id,
        version=written.version,
        classes=written.classes,
        strict_mode=written.strict_mode,
        description=written.description,
        client=written.client,
    )


def policy_toml(written: PolicyFile) -> str:
    """The file for a policy: reading it gives an equal one."""
    lines = [
        f"id = {_quoted(written.id)}",
        f"version = {written.version}",
        f"description = {_quoted(written.description)}",
    ]
    if written.client is not None:
        lines.append(f"client = {_quoted(written.client)}")
    if written.strict_mode:
        lines.append("strict_mode = true")
    for name, limits in written.classes.items():
        lines += ["", f"[classes.{name}]"]
        for field in msgspec.structs.fields(limits):
            value = getattr(limits, field.name)
            if value is not None and value != field.default:
                lines.append(f"{field.name} = {_toml(value)}")
    for example in written.example:
        lines += ["", "[[example]]"]
        if example.scores:
            inner = ", ".join(f"{_quoted(name)} = {_toml(score)}" for name, score in example.scores.items())
            lines.append(f"scores = {{ {inner} }}")
        if example.failed:
            lines.append(f"failed = [{', '.join(map(_quoted, example.failed))}]")
        if example.strict_mode is not None:
            lines.append(f"strict_mode = {_toml(example.strict_mode)}")
        lines.append(f"action = {_quoted(example.action.value)}")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case tuple():
            return "[\n" + "".join(f"    {_quoted(str(item))},\n" for item in value) + "]"
        case _:
            return _quoted(str(value))


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def broken_examples(policy: Policy, examples: tuple[Example, ...]) -> Iterator[str]:
    """The examples that the policy does not keep, in words."""
    for number, example in enumerate(examples, 1):
        tried = policy
        if example.strict_mode is not None:
            tried = msgspec.structs.replace(policy, strict_mode=example.strict_mode)
        unknown = (set(example.scores) | set(example.failed)) - set(policy.classes)
        if unknown:
            yield f"example {number} names {', '.join(sorted(unknown))}, which the policy has not"
        action = decide(tried, _reports(example)).action
        if action is not example.action:
            yield f"example {number} ends in {action}, not {example.action}"


def _reports(example: Example) -> list[Report]:
    reports: list[Report] = [
        Ran(
            tier=1,
            detector="example",
            ms=0.0,
            hears=frozenset(example.scores),
            findings=Findings(
                detections=tuple(Detection(failure_class=n, score=s) for n, s in example.scores.items())
            ),
        )
    ]
    if example.failed:
        reports.append(
            Failed(tier=2, detector="example", ms=0.0, hears=frozenset(example.failed), reason="example")
        )
    return reports
