"""GET /v1/policies and /v1/rules: what is in force, to be read."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from llmobs.domain.access import Need, Principal, Scope
from llmobs.domain.interval import Interval, wilson
from llmobs.domain.policy import ClassPolicy, Judging, OnFailure, Policy
from llmobs.domain.risk import Severity
from llmobs.http.access import needs, principal_of
from llmobs.http.services import services

AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode


class ClassLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one class may do under a policy. A threshold of null is never reached."""

    severity: Severity
    clear: float
    log: float | None
    warn: float | None
    block: float | None
    on_failure: OnFailure
    raise_only: bool
    judge: Judging
    judge_from: float | None
    message: str
    examples: Annotated[int, Meta(description="How many texts define the class by likeness.")]


class PolicyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A policy in force."""

    id: str
    version: int
    description: str
    strict_mode: bool
    client: Annotated[str | None, Meta(description="Whom it belongs to; null: all may use it.")]
    classes: dict[str, ClassLimits]


class PolicyList(msgspec.Struct, frozen=True, kw_only=True):
    """The policies that the caller may use."""

    default: Annotated[str, Meta(description="Id of the one that decides where none is named.")]
    policies: tuple[PolicyEntry, ...]


class RuleEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A rule in force. Evidence names it as `rule:` and its id."""

    id: str
    failure_class: str
    note: str
    status: str
    score: Annotated[float | None, Meta(description="Measured probability; null: unmeasured, never acts.")]
    rollout: Annotated[int, Meta(description="Percentage of requests in which it acts.")]


class RuleList(msgspec.Struct, frozen=True, kw_only=True):
    """The rules in force."""

    total: int
    rules: tuple[RuleEntry, ...]


class RuleHitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a rule gave evidence, on trial or acting."""

    id: str
    verdicts: int
    judged: Annotated[int, Meta(description="Those that feedback speaks about.")]
    precision: Annotated[
        Interval | None,
        Meta(description="Share of those whose text was of the rule's class, with a 95 % interval."),
    ]


class RuleHitList(msgspec.Struct, frozen=True, kw_only=True):
    """Hits of rules, the most frequent first."""

    searched: Annotated[int, Meta(description="The newest verdicts looked through, 10,000 at most.")]
    rules: tuple[RuleHitEntry, ...]


@get("/v1/policies", opt=needs(Need.KNOWN))
async def policies(request: AnyRequest) -> Response[bytes]:
    """The policies that the caller may use, with their thresholds."""
    parts, who = services(request), principal_of(request)
    found = tuple(
        _policy(policy) for _, policy in sorted(parts.policies.current.items()) if _may_read(who, policy)
    )
    listed = PolicyList(default=who.policy or parts.settings.default_policy, policies=found)
    return Response(_encode(listed), media_type="application/json")


@get("/v1/rules", opt=needs(Need.KNOWN))
async def rules(request: AnyRequest) -> Response[bytes]:
    """The rules in force: what they look for, not how."""
    found = tuple(
        RuleEntry(
            id=compiled.rule.id,
            failure_class=compiled.failure_class,
            note=compiled.rule.note,
            status=compiled.rule.status.value,
            score=compiled.score,
            rollout=compiled.rule.rollout,
        )
        for compiled in sorted(services(request).rules.current.rules, key=lambda one: one.rule.id)
    )
    return Response(_encode(RuleList(total=len(found), rules=found)), media_type="application/json")


@get("/v1/rules/hits", opt=needs(Need.LOGS_READ))
async def rule_hits(request: AnyRequest) -> Response[bytes]:
    """In how many of the newest verdicts each rule gave evidence."""
    searched, hits = await services(request).logs.rule_hits(principal_of(request).view)
    found = tuple(
        RuleHitEntry(
            id=one.rule,
            verdicts=one.verdicts,
            judged=one.judged,
            precision=wilson(one.right, one.judged),
        )
        for one in hits
    )
    return Response(_encode(RuleHitList(searched=searched, rules=found)), media_type="application/json")


def _may_read(who: Principal, policy: Policy) -> bool:
    return policy.client in {None, who.client_id} or who.client_id is None or Scope.ADMIN in who.scopes


def _policy(policy: Policy) -> PolicyEntry:
    return PolicyEntry(
        id=policy.id,
        version=policy.version,
        description=policy.description,
        strict_mode=policy.strict_mode,
        client=policy.client,
        classes={name: _limits(limits) for name, limits in policy.classes.items()},
    )


def _limits(limits: ClassPolicy) -> ClassLimits:
    told = {name: getattr(limits, name) for name in ClassLimits.__struct_fields__ if name != "examples"}
    return ClassLimits(**told, examples=len(limits.examples))
