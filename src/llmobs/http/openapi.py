"""The OpenAPI 3.1 document, made from the very types that read and write the bodies."""

from collections.abc import Iterable
from typing import Any

import msgspec

from llmobs import __version__, errors
from llmobs.access.keys import KEY_ID
from llmobs.access.registry import CLIENT_ID
from llmobs.domain.access import Need
from llmobs.domain.feedback import KeptOpinion
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.errors import Problem
from llmobs.http import admin, catalogue, feedback, labelled, overview, policy_changes, schemas, session
from llmobs.http.access import LIMITED
from llmobs.http.columns import PARQUET
from llmobs.http.logs import JSON_LINES, MAX_LIMIT, MAX_WORD
from llmobs.http.problems import MEDIA_TYPE
from llmobs.labelled import LabelledTried
from llmobs.store.erasure import Erased, ErasedPerson
from llmobs.store.records import CURSOR

REF = "#/components/schemas/{name}"

_TYPES = (
    schemas.DetectRequest,
    schemas.DetectAnswer,
    schemas.BatchAnswer,
    schemas.ProblemDetails,
    schemas.RecentLogs,
    schemas.LogPage,
    schemas.LogEntry,
    schemas.Health,
    schemas.Stats,
    schemas.Readiness,
    schemas.Liveness,
    schemas.Welcome,
    admin.NewClient,
    admin.ClientPatch,
    admin.NewKey,
    admin.Rotation,
    admin.ClientList,
    admin.KeyList,
    admin.FreshKey,
    admin.NewErasure,
    admin.Caller,
    admin.AuditPage,
    feedback.NewFeedback,
    feedback.FeedbackPage,
    KeptOpinion,
    Erased,
    ErasedPerson,
    catalogue.PolicyList,
    catalogue.RuleList,
    catalogue.RuleHitList,
    overview.Overview,
    policy_changes.PolicyDraft,
    policy_changes.PolicyTrial,
    policy_changes.PolicyChange,
    policy_changes.PolicySource,
    policy_changes.CheckedPolicy,
    policy_changes.PolicyTried,
    labelled.LabelledTrial,
    LabelledTried,
    session.SessionState,
    session.SignIn,
)

_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body answer the first verdict again; another body is 409.",
    "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,255}$"},
}
_BODY_PROBLEMS: tuple[type[Problem], ...] = (
    errors.RequestInvalid,
    errors.IdempotencyConflict,
    errors.TextTooLong,
    errors.MediaTypeUnsupported,
    errors.BodyInvalid,
    errors.RecordUnavailable,
    errors.Overloaded,
    errors.BodyTimeout,
    errors.DeadlineExceeded,
)


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_LIMIT = _query("limit", "How many at most.", type="integer", minimum=1, maximum=MAX_LIMIT, default=50)
_LOG_QUERY = [
    _query("action", "Only this action.", enum=[a.value for a in Action]),
    _query("failure_class", "Only verdicts that this class decided.", type="string"),
    _query("tier", "Only verdicts for which this was the highest tier.", type="integer"),
    _query("blocked", "Only blocked ones, or only others.", type="boolean"),
    _query("kind", "Only this kind of text.", enum=[k.value for k in Kind]),
    _query("since", "From this time on (inclusive).", type="string", format="date-time"),
    _query("until", "Before this time.", type="string", format="date-time"),
    _query("request_id", "Only this verdict.", type="string"),
    _query("client_id", "Only this client's.", type="string"),
    _query(
        "q",
        "Only texts, as they are stored, that hold this, whatever the case of its ASCII letters. A search may "
        "end before the last row, even with nothing found: `next_cursor` goes on.",
        type="string",
        minLength=2,
        maxLength=MAX_WORD,
    ),
    _query("cursor", "`next_cursor` of the page before.", type="string", pattern=f"^{CURSOR.pattern}$"),
    _LIMIT,
    _query(
        "format",
        "`jsonl` answers every match as JSON lines, `parquet` as one Parquet file, where that extra is installed.",
        enum=["json", "jsonl", "parquet"],
        default="json",
    ),
]


def _answer(name: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": REF.format(name=name)}}},
    }


def _operation(
    operation_id: str,
    summary: str,
    answers: dict[int, dict[str, Any]],
    problems: tuple[type[Problem], ...] = (),
    **more: Any,
) -> dict[str, Any]:
    responses: dict[str, Any] = {str(status): answer for status, answer in answers.items()}
    return {
        "operationId": operation_id,
        "summary": summary,
        "responses": _refused(responses, problems),
        **more,
    }


def _refused(responses: dict[str, Any], problems: Iterable[type[Problem]]) -> dict[str, Any]:
    """The responses, and those of the problems beside them."""
    for problem in problems:
        known = responses.setdefault(
            str(problem.status),
            {
                "description": problem.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(name="ProblemDetails")}}},
            },
        )
        if known["description"] != problem.title and MEDIA_TYPE in known["content"]:
            known["description"] += f"; {problem.title}"
    return responses


def _path_part(name: str, pattern: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": f"^{pattern}$"},
    }


def _json_body(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"required": True, "description": description, "content": {"application/json": {"schema": schema}}}


def _paths() -> dict[str, Any]:
    text = {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    page = {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}
    log_page = _answer("LogPage", "A page of verdicts")
    log_page["content"][JSON_LINES] = {"schema": {"type": "string"}}
    log_page["content"][PARQUET] = {"schema": {"type": "string", "format": "binary"}}

    def detect(suffix: str) -> dict[str, Any]:
        return {
            "post": _operation(
                "detect" + suffix,
                "Screen one text",
                {200: _answer("DetectAnswer", "The verdict")},
                (*_BODY_PROBLEMS, errors.PolicyUnknown),
                parameters=[_KEY],
                requestBody=_json_body(
                    {"$ref": REF.format(name="DetectRequest")}, "The text and its context."
                ),
            )
        }

    def batch(suffix: str) -> dict[str, Any]:
        return {
            "post": _operation(
                "detectBatch" + suffix,
                "Screen up to 100 texts",
                {200: _answer("BatchAnswer", "The verdicts, in order; a bad item holds its problem")},
                (*_BODY_PROBLEMS, errors.BatchTooLarge),
                parameters=[_KEY],
                requestBody=_json_body(
                    {"type": "array", "maxItems": schemas.MAX_BATCH, "items": {}},
                    "An array of bodies as /v1/detect takes. An item that does not validate answers its problem "
                    "in place.",
                ),
            )
        }

    def stats(suffix: str) -> dict[str, Any]:
        return {
            "get": _operation(
                "stats" + suffix,
                "Counts from the database, and precision by class from feedback",
                {200: _answer("Stats", "Counts")},
                (errors.DatabaseUnavailable,),
            )
        }

    state = _answer("SessionState", "Who is signed in")
    return {
        "/": {"get": _operation("welcome", "What answers here", {200: _answer("Welcome", "The service")})},
        "/v1/detect": detect(""),
        "/detect": detect("Alias"),
        "/v1/detect/batch": batch(""),
        "/detect/batch": batch("Alias"),
        "/logs/recent": {
            "get": _operation(
                "recentLogs",
                "The newest verdicts",
                {200: _answer("RecentLogs", "Newest first")},
                (errors.ParameterInvalid, errors.DatabaseUnavailable),
                parameters=[_LIMIT],
            )
        },
        "/v1/logs": {
            "get": _operation(
                "logs",
                "Verdicts that match, by page or as JSON lines",
                {200: log_page},
                (errors.ParameterInvalid, errors.DatabaseUnavailable),
                parameters=_LOG_QUERY,
            )
        },
        "/v1/logs/{request_id}": {
            "delete": _operation(
                "eraseVerdict",
                "Erase a verdict with its text, feedback and idempotency key",
                {200: _answer("Erased", "What was erased")},
                (errors.EntryUnknown, errors.DatabaseUnavailable),
                parameters=[_path_part("request_id", "[0-9A-Za-z-]{1,64}")],
            )
        },
        "/health": {
            "get": _operation(
                "health",
                "How the service is",
                {200: _answer("Health", "Well"), 503: _answer("Health", "Unwell")},
            )
        },
        "/health/live": {
            "get": _operation("live", "The process answers", {200: _answer("Liveness", "Alive")})
        },
        "/health/ready": {
            "get": _operation(
                "ready",
                "Whether requests may be sent here",
                {200: _answer("Readiness", "Ready"), 503: _answer("Readiness", "Not ready")},
            )
        },
        "/metrics": {"get": _operation("metrics", "Prometheus metrics", {200: text})},
        "/metrics/stats": stats("Alias"),
        "/v1/stats": stats(""),
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document",
                {
                    200: {
                        "description": "OpenAPI",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    }
                },
            )
        },
        "/v1/policies": {
            "get": _operation("policies", "Policies in force", {200: _answer("PolicyList", "Policies")})
        },
        "/v1/overview": {
            "get": _operation(
                "overview",
                "What came through in a span of time",
                {200: _answer("Overview", "The figures")},
                (errors.ParameterInvalid, errors.DatabaseUnavailable),
                parameters=[
                    _query("span", "How far back, from now.", type="string", enum=sorted(overview.SPANS))
                ],
            )
        },
        "/v1/rules": {"get": _operation("rules", "Rules in force", {200: _answer("RuleList", "Rules")})},
        "/v1/rules/hits": {
            "get": _operation(
                "ruleHits",
                "How often each rule gave evidence in the newest verdicts",
                {200: _answer("RuleHitList", "Hits")},
                (errors.DatabaseUnavailable,),
            )
        },
        "/v1/overview/stream": {
            "get": _operation(
                "overviewStream",
                "The overview again whenever it changed, as server-sent events for a minute",
                {
                    200: {
                        "description": "Events `overview` (an Overview), `unavailable` and `end`",
                        "content": {
                            "text/event-stream": {
                                "schema": {
                                    "type": "object",
                                    "description": "One event; `data` is JSON.",
                                    "properties": {
                                        "event": {"enum": ["overview", "unavailable", "end"]},
                                        "data": {"type": "string"},
                                    },
                                    "required": ["event", "data"],
                                }
                            }
                        },
                    }
                },
                (errors.ParameterInvalid, errors.Overloaded),
                parameters=[
                    _query("span", "How far back, from now.", type="string", enum=sorted(overview.SPANS))
                ],
            )
        },
        "/ui": {"get": _operation("ui", "The web page", {200: page})},
        "/ui/session": {
            "get": _operation("session", "Who is signed in to the web page", {200: state}),
            "post": _operation(
                "signIn",
                "Sign in to the web page; only the page itself can",
                {200: state},
                (
                    errors.RequestInvalid,
                    errors.TextTooLong,
                    errors.MediaTypeUnsupported,
                    errors.BodyInvalid,
                    errors.Unauthenticated,
                    errors.EntryConflict,
                    errors.RateLimited,
                    errors.DatabaseUnavailable,
                ),
                requestBody=_json_body({"$ref": REF.format(name="SignIn")}, "A key or a token."),
            ),
            "delete": _operation(
                "signOut",
                "Sign out of the web page; only the page itself can",
                {200: state},
                (errors.Unauthenticated,),
            ),
        },
        "/docs": {"get": _operation("docs", "This document to click through, offline", {200: page})},
    }


def _feedback_paths() -> dict[str, Any]:
    listed = _answer("FeedbackPage", "A page of feedback")
    listed["content"][JSON_LINES] = {"schema": {"type": "string"}}
    formats = "`rows` answers the labelled texts as JSON lines for `llmobs eval` and `llmobs calibrate`."
    return {
        "/v1/feedback": {
            "post": _operation(
                "giveFeedback",
                "Say whether a verdict was right",
                {
                    201: _answer("KeptOpinion", "Kept"),
                    200: _answer("KeptOpinion", "Kept, in place of an earlier word on the verdict"),
                },
                (
                    errors.RequestInvalid,
                    errors.EntryUnknown,
                    errors.TextTooLong,
                    errors.MediaTypeUnsupported,
                    errors.BodyInvalid,
                    errors.ValueRefused,
                    errors.DatabaseUnavailable,
                ),
                requestBody=_json_body({"$ref": REF.format(name="NewFeedback")}, "The word on a verdict."),
            ),
            "get": _operation(
                "listFeedback",
                "Feedback that matches, by page; or the texts that it labels",
                {200: listed},
                (errors.ParameterInvalid, errors.DatabaseUnavailable),
                parameters=[
                    _query("correct", "Only where the verdict was right, or wrong.", type="boolean"),
                    _query("failure_class", "Only where the verdict named this class.", type="string"),
                    _query("true_class", "Only texts that really are of this class.", type="string"),
                    _query("harmless", "Only harmless texts, or only others.", type="boolean"),
                    _query("request_id", "Only on this verdict.", type="string"),
                    _query("client_id", "Only on this client's verdicts.", type="string"),
                    _query(
                        "cursor",
                        "`next_cursor` of the page before.",
                        type="string",
                        pattern=f"^{CURSOR.pattern}$",
                    ),
                    _LIMIT,
                    _query("format", formats, enum=["json", "rows"], default="json"),
                ],
            ),
        }
    }


def _admin_paths() -> dict[str, Any]:
    client_id = _path_part("client_id", CLIENT_ID.pattern)
    key_id = _path_part("key_id", KEY_ID)
    body = (errors.RequestInvalid, errors.TextTooLong, errors.MediaTypeUnsupported, errors.BodyInvalid)
    away = errors.DatabaseUnavailable

    def taken(name: str, description: str) -> dict[str, Any]:
        return _json_body({"$ref": REF.format(name=name)}, description)

    return {
        "/v1/me": {
            "get": _operation("me", "What the service knows of the caller", {200: _answer("Caller", "You")})
        },
        "/v1/admin/audit": {
            "get": _operation(
                "listAudit",
                "What administrators did, newest first",
                {200: _answer("AuditPage", "A page of what was done")},
                (errors.ParameterInvalid, away),
                parameters=[
                    _query(
                        "cursor",
                        "`next_cursor` of the page before.",
                        type="string",
                        pattern=f"^{CURSOR.pattern}$",
                    ),
                    _LIMIT,
                ],
            )
        },
        "/v1/admin/erasures": {
            "post": _operation(
                "erasePerson",
                "Erase all that is kept of a person",
                {200: _answer("ErasedPerson", "How many rows are gone")},
                (*body, errors.EntryConflict, away),
                requestBody=taken("NewErasure", "Whom."),
            )
        },
        "/v1/admin/clients": {
            "get": _operation("listClients", "All clients", {200: _answer("ClientList", "Clients")}, (away,)),
            "post": _operation(
                "createClient",
                "Add a client",
                {201: _answer("Client", "The client")},
                (*body, errors.ValueRefused, errors.PolicyUnknown, errors.EntryConflict, away),
                requestBody=taken("NewClient", "The client."),
            ),
        },
        "/v1/admin/clients/{client_id}": {
            "get": _operation(
                "showClient",
                "One client",
                {200: _answer("Client", "The client")},
                (errors.EntryUnknown, away),
                parameters=[client_id],
            ),
            "patch": _operation(
                "changeClient",
                "Change, share or disable a client",
                {200: _answer("Client", "The client as it is now")},
                (
                    *body,
                    errors.ValueRefused,
                    errors.PolicyUnknown,
                    errors.EntryUnknown,
                    errors.EntryConflict,
                    away,
                ),
                parameters=[client_id],
                requestBody=taken("ClientPatch", "What is to change."),
            ),
        },
        "/v1/admin/keys": {
            "get": _operation(
                "listKeys",
                "Keys, never the keys themselves",
                {200: _answer("KeyList", "Keys")},
                (errors.ParameterInvalid, away),
                parameters=[_query("client_id", "Only this client's.", type="string")],
            ),
            "post": _operation(
                "createKey",
                "Make a key; it is shown this once",
                {201: _answer("FreshKey", "The key")},
                (*body, errors.ValueRefused, errors.EntryUnknown, errors.EntryConflict, away),
                requestBody=taken("NewKey", "For whom, and what it may do."),
            ),
        },
        "/v1/admin/keys/{key_id}": {
            "delete": _operation(
                "revokeKey",
                "Void a key",
                {200: _answer("Key", "The key as it is now")},
                (errors.EntryUnknown, away),
                parameters=[key_id],
            )
        },
        "/v1/admin/keys/{key_id}/rotate": {
            "post": _operation(
                "rotateKey",
                "Put a fresh key in the place of one, which works on for a while",
                {201: _answer("FreshKey", "The fresh key")},
                (*body, errors.ValueRefused, errors.EntryUnknown, errors.EntryConflict, away),
                parameters=[key_id],
                requestBody=taken("Rotation", "How long the old key works on."),
            )
        },
    }


def _policy_paths() -> dict[str, Any]:
    policy_id = _path_part("policy_id", "[a-z0-9][a-z0-9_-]{0,63}")
    body = (
        errors.RequestInvalid,
        errors.TextTooLong,
        errors.MediaTypeUnsupported,
        errors.BodyInvalid,
        errors.PolicyRefused,
    )

    def taken(name: str, description: str) -> dict[str, Any]:
        return _json_body({"$ref": REF.format(name=name)}, description)

    return {
        "/v1/admin/policies/{policy_id}": {
            "get": _operation(
                "showPolicy",
                "A policy as written, in force or in an earlier version",
                {200: _answer("PolicySource", "The policy")},
                (errors.ParameterInvalid, errors.EntryUnknown),
                parameters=[
                    policy_id,
                    _query("version", "An earlier version.", type="integer", minimum=1),
                ],
            ),
            "put": _operation(
                "changePolicy",
                "Put a policy in force",
                {200: _answer("CheckedPolicy", "The policy in force")},
                (*body, errors.EntryConflict, errors.DatabaseUnavailable),
                parameters=[policy_id],
                requestBody=taken("PolicyChange", "The policy, and the version that it was made from."),
            ),
        },
        "/v1/admin/policies/check": {
            "post": _operation(
                "checkPolicy",
                "Whether a policy is sound; nothing changes",
                {200: _answer("CheckedPolicy", "It is")},
                body,
                requestBody=taken("PolicyDraft", "The policy."),
            )
        },
        "/v1/admin/policies/dry-run": {
            "post": _operation(
                "tryPolicy",
                "What a policy would have made of recorded verdicts; nothing changes",
                {200: _answer("PolicyTried", "What would change")},
                (*body, errors.DatabaseUnavailable),
                requestBody=taken("PolicyTrial", "The policy, and on how many verdicts."),
            )
        },
        "/v1/admin/policies/dry-run/labelled": {
            "post": _operation(
                "tryPolicyOnLabelled",
                "What a policy makes of labelled texts, beside the one in force; nothing is recorded",
                {200: _answer("LabelledTried", "Figures by task, and what would change")},
                (*body, errors.PolicyUnknown, errors.Overloaded),
                requestBody=taken("LabelledTrial", "The policy, and the file."),
            )
        },
    }


def _secured(paths: dict[str, Any], needs: Iterable[tuple[str, str, Need]]) -> dict[str, Any]:
    """Say of each operation which credentials it takes, and what it answers without them."""
    refusals = (errors.Unauthenticated, errors.Forbidden, errors.CredentialsUnchecked)
    for method, path, need in needs:
        operation = paths.get(path, {}).get(method.lower())
        if operation is None or need is Need.PUBLIC:
            continue
        operation["security"] = [{"apiKey": []}, {"bearer": []}]
        _refused(operation["responses"], refusals)
        if need in LIMITED:
            _refused(operation["responses"], (errors.RateLimited,))
        if need is not Need.KNOWN:
            operation["description"] = f"Needs the scope `{need.value}` where credentials are asked for."
    return paths


def openapi_document(
    max_text_chars: int,
    policies: Iterable[str],
    needs: Iterable[tuple[str, str, Need]] = (),
    tiers: Iterable[str] = (),
) -> dict[str, Any]:
    """The document for a service with this limit, these policies and rate-limit tiers.

    `needs` are those of its routes, where it asks for credentials at all.
    """
    _, components = msgspec.json.schema_components(_TYPES, ref_template=REF)
    fields = components["DetectRequest"]["properties"]
    # Not as maxLength: a longer text is refused as 413, not as one that does not validate.
    fields["llm_response"]["description"] += f" More than {max_text_chars} characters are 413."
    policy = {"anyOf": [{"enum": sorted(policies)}, {"type": "null"}]}
    tier = {"enum": sorted(tiers)}
    fields["policy"] |= policy
    for name in ("NewClient", "ClientPatch"):
        components[name]["properties"]["policy"] |= policy
        components[name]["properties"]["tier"] |= tier
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llmobs",
            "version": __version__,
            "description": "Inspects what language models say, before people read it, and keeps the record.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _secured(_paths() | _feedback_paths() | _admin_paths() | _policy_paths(), needs),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key, or a token of the identity provider.",
                },
            },
        },
    }
