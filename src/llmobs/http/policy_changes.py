"""/v1/admin/policies: read a policy as written, check a change, try it on recorded verdicts, put it in force."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post, put
from litestar.params import FromPath
from msgspec import Meta

from llmobs.domain.access import Need
from llmobs.domain.rerun import Certainty
from llmobs.domain.risk import Action
from llmobs.errors import BodyInvalid, PolicyInvalid, PolicyRefused
from llmobs.http.access import needs, principal_of
from llmobs.http.bodies import read_body
from llmobs.http.logs import read_query
from llmobs.http.services import services
from llmobs.policies import PolicyFile, parsed_policy
from llmobs.policy_desk import ChangedRow, next_text

MAX_POLICY = 2**20
"""Bytes of a body; a policy may hold a hundred examples a class."""
MOST_ROWS = 5000

AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode

_Text = Annotated[
    str | None, Meta(description="The policy as a TOML file; kept as written, comments included.")
]
_Form = Annotated[PolicyFile | None, Meta(description="The policy in JSON; one of both is given.")]


class PolicyDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/policies/check."""

    toml: _Text = None
    policy: _Form = None


class PolicyTrial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/admin/policies/dry-run."""

    toml: _Text = None
    policy: _Form = None
    rows: Annotated[int, Meta(ge=1, le=MOST_ROWS, description="How many of the newest verdicts.")] = 1000
    recorded_under: Annotated[
        str | None, Meta(description="Id of the policy that decided them; null: the same id, or the default.")
    ] = None


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT /v1/admin/policies/{policy_id}."""

    toml: _Text = None
    policy: _Form = None
    based_on: Annotated[int, Meta(ge=0, description="The version that was changed; 0 for a new policy.")]


class PolicySource(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as written, in both forms."""

    policy: PolicyFile
    toml: str
    built_in: Annotated[bool, Meta(description="It stands in the package, not in the operator's folder.")]
    versions: Annotated[tuple[int, ...], Meta(description="Those that can be read, newest first.")]
    writable: Annotated[bool, Meta(description="Whether a change can be put in force here.")]


class CheckedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that is sound, in both forms."""

    policy: PolicyFile
    toml: str


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded verdict that would have been another."""

    request_id: str
    created_at: datetime
    policy_version: int
    before: Action
    after: Action
    class_before: str | None
    class_after: str | None
    certainty: Certainty


class PolicyTried(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have made of recorded verdicts. Nothing was examined or written."""

    recorded_under: str
    searched: Annotated[int, Meta(description="Verdicts looked at.")]
    decided: Annotated[int, Meta(description="Those that could be decided again.")]
    before: Annotated[dict[str, int], Meta(description="Their actions as recorded.")]
    after: Annotated[dict[str, int], Meta(description="Their actions under the policy tried.")]
    changed: int
    certainty: Annotated[
        dict[str, int],
        Meta(
            description="`sure`; `routed`: other detectors might have been asked; `faint`: a score without "
            "evidence reaches a threshold; `degraded`: a detector had failed, so it was not decided again."
        ),
    ]
    unexamined: Annotated[
        tuple[str, ...], Meta(description="Classes that were not looked for then, or by other examples.")
    ]
    rows: Annotated[tuple[TrialRow, ...], Meta(description="The newest that changed, 200 at most.")]


class VersionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Query of GET /v1/admin/policies/{policy_id}."""

    version: int | None = None


@get("/v1/admin/policies/{policy_id:str}", opt=needs(Need.ADMIN))
async def show_policy(request: AnyRequest, policy_id: FromPath[str]) -> Response[bytes]:
    """A policy as written, in force or in an earlier version."""
    query = read_query(request, VersionQuery)
    desk = services(request).desk
    found = await desk.read(policy_id, query.version)
    return _json(
        PolicySource(
            policy=found.written,
            toml=found.text,
            built_in=not found.own,
            versions=await desk.versions(policy_id),
            writable=desk.writable,
        )
    )


@post("/v1/admin/policies/check", status_code=200, opt=needs(Need.ADMIN), request_max_body_size=MAX_POLICY)
async def check_policy(request: AnyRequest) -> Response[bytes]:
    """Whether a policy is sound; nothing changes."""
    written, text = drafted(await read_body(request, PolicyDraft))
    services(request).desk.checked(written)
    return _json(CheckedPolicy(policy=written, toml=text))


@post("/v1/admin/policies/dry-run", status_code=200, opt=needs(Need.ADMIN), request_max_body_size=MAX_POLICY)
async def try_policy(request: AnyRequest) -> Response[bytes]:
    """What a policy would have made of the newest recorded verdicts; nothing changes."""
    asked = await read_body(request, PolicyTrial)
    written, _ = drafted(asked)
    parts = services(request)
    policy = parts.desk.checked(written)
    known = parts.policies.current
    under = asked.recorded_under or (written.id if written.id in known else parts.settings.default_policy)
    tried = await parts.desk.dry_run(principal_of(request).view, policy, asked.rows, under)
    return _json(
        PolicyTried(
            recorded_under=under,
            searched=tried.searched,
            decided=tried.before.total(),
            before={action.value: tried.before[action] for action in Action},
            after={action.value: tried.after[action] for action in Action},
            changed=tried.changed,
            certainty={one.value: tried.certainty[one] for one in Certainty},
            unexamined=tried.unexamined,
            rows=tuple(map(_row, tried.rows)),
        )
    )


@put("/v1/admin/policies/{policy_id:str}", opt=needs(Need.ADMIN), request_max_body_size=MAX_POLICY)
async def change_policy(request: AnyRequest, policy_id: FromPath[str]) -> Response[bytes]:
    """Put a policy in force."""
    asked = await read_body(request, PolicyChange)
    written, text = drafted(asked)
    if written.id != policy_id:
        raise BodyInvalid("The policy's id is not the one in the path.")
    await services(request).desk.put(written, text, based_on=asked.based_on, by=principal_of(request).actor)
    return _json(CheckedPolicy(policy=written, toml=text))


HANDLERS = (show_policy, check_policy, try_policy, change_policy)


def drafted(given: PolicyDraft | PolicyTrial | PolicyChange) -> tuple[PolicyFile, str]:
    """The policy of a body, and its file. BodyInvalid unless exactly one form is given."""
    if (given.toml is None) == (given.policy is None):
        raise BodyInvalid("Give the policy once: as toml or as policy.")
    if given.policy is not None:
        return given.policy, next_text(None, given.policy)
    try:
        assert given.toml is not None  # noqa: S101  # one of both is given
        return parsed_policy(given.toml, "toml"), given.toml
    except PolicyInvalid as error:
        raise PolicyRefused(f"{error}.") from None


def _row(changed: ChangedRow) -> TrialRow:
    record, rerun = changed.record, changed.rerun
    assert rerun.action is not None  # noqa: S101  # only what was decided again can have changed
    return TrialRow(
        request_id=record.request_id,
        created_at=record.created_at,
        policy_version=record.policy_version,
        before=record.decided.action,
        after=rerun.action,
        class_before=record.decided.failure_class,
        class_after=rerun.failure_class,
        certainty=rerun.certainty,
    )


def _json(body: Any) -> Response[bytes]:
    return Response(_encode(body), media_type="application/json")
