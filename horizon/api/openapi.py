"""Describes the routes as OpenAPI 3.1, from the same table and the same structs that serve them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

import horizon
from horizon.api import problems
from horizon.api.reading import IDEMPOTENCY_KEY_MAX, MIN_POSITION, Query
from horizon.api.routes import API, JSON, OPENAPI_PATH, Route
from horizon.core.events import AnyEvent

_REF: Final = "#/components/schemas/{name}"
_PART: Final = re.compile(r"\{(\w+)(?::[^}]*)?\}")

_UUID: Final = "-".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (8, 4, 4, 4, 12))
_PATH_PARAMETERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "id": (
        "A job: its id, a UUID, its number, or for a task of an array ARRAY_INDEX such as 12_7.",
        {"pattern": f"^([0-9]{{1,18}}(_[0-9]{{1,18}})?|{_UUID})$"},
    ),
    "name": ("A node.", {}),
    "uuid": ("A GPU.", {}),
    "booking": ("A booking: its id, a UUID.", {}),
    "path": ("A share: an account such as research/nlp, or a user below one; slashes as they are.", {}),
}
_MIN_POSITION: Final = {
    "name": MIN_POSITION,
    "in": "query",
    "description": "Wait, up to 2 s, until what is known here reaches this position of the log; then 503.",
    "schema": {"type": "integer", "minimum": 0},
}
_AS_OF: Final = {
    "description": "The answer knows the log up to this position, at least.",
    "schema": {"type": "integer"},
}
_PROBLEMS: Final = {
    kind.status: kind.title
    for kind in (
        problems.MALFORMED,
        problems.UNAUTHORIZED,
        problems.NOT_FOUND,
        problems.CONFLICT,
        problems.ARCHIVED,
        problems.STALE,
        problems.TOO_LARGE,
        problems.MEDIA_TYPE,
        problems.INVALID,
        problems.CORRUPT,
        problems.UNAVAILABLE,
    )
}


def describe(routes: Iterable[Route]) -> bytes:
    """The document as JSON."""
    routes = tuple(routes)
    structs = {route.answer for route in routes if isinstance(route.answer, type)}
    structs |= {route.body.expected for route in routes if route.body is not None}
    types = [*sorted(structs, key=lambda struct: struct.__name__), problems.ProblemAnswer, AnyEvent]
    references, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    schemas["Event"] = references[-1]
    schemas["EventAnswer"]["properties"]["payload"] = {"$ref": _REF.format(name="Event")}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PART.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    paths[OPENAPI_PATH] = {"get": _own_operation()}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Horizon",
            "version": horizon.__version__,
            "description": "An auditable GPU job scheduler.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }
    return msgspec.json.encode(document)


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "responses": _responses(route),
    }
    parameters = [*_path_parameters(route), *_query_parameters(route.query), *_header_parameters(route)]
    if route.path.startswith(API) and not route.changes:
        parameters.append(_MIN_POSITION)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {
            "required": not route.body.optional,
            "content": _json(route.body.expected),
        }
    if route.open:
        operation["security"] = []
    return operation


def _own_operation() -> dict[str, Any]:
    content = {JSON: {"schema": {"type": "object"}}}
    return {
        "operationId": "get_openapi",
        "summary": "This document",
        "responses": {"200": {"description": "OpenAPI 3.1", "content": content}},
        "security": [],
    }


def _json(struct: type[Struct], content_type: str = JSON) -> dict[str, Any]:
    return {content_type: {"schema": {"$ref": _REF.format(name=struct.__name__)}}}


# --- parameters ---------------------------------------------------------------------------------------


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name][0],
            "schema": {"type": "string", **_PATH_PARAMETERS[name][1]},
        }
        for name in _PART.findall(route.path)
    ]


def _query_parameters(query: Query[Any] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    (_,), schemas = msgspec.json.schema_components([query.expected], ref_template=_REF)
    properties = schemas[query.expected.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    headers = []
    if route.changes:
        key = {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX, "pattern": "^[!-~]+$"}
        headers.append(("Idempotency-Key", "Makes it safe to send this again: it takes effect once.", key))
    if route.versioned and route.conditional and route.status == 200:
        name = "If-Match" if route.changes else "If-None-Match"
        headers.append((name, "An ETag of an earlier answer.", {"type": "string"}))
    return [
        {"name": name, "in": "header", "description": description, "schema": schema}
        for name, description, schema in headers
    ]


# --- responses ----------------------------------------------------------------------------------------


def _responses(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = (
        {route.answer: {"schema": {"type": "string"}}}
        if isinstance(route.answer, str)
        else _json(route.answer)
    )
    success: dict[str, Any] = {"description": route.summary, "content": content}
    headers: dict[str, Any] = {"ETag": {"schema": {"type": "string"}}} if route.versioned else {}
    if route.path.startswith(API) and not route.at_leader:
        headers["Horizon-As-Of"] = _AS_OF
    if headers:
        success["headers"] = headers
    responses: dict[str, Any] = {str(route.status): success}
    if route.versioned and route.conditional and not route.changes:
        responses["304"] = {"description": "It has not changed"}
    for status in _refusals(route):
        problem = _json(problems.ProblemAnswer, problems.CONTENT_TYPE)
        responses[str(status)] = {"description": _PROBLEMS[status], "content": problem}
    if route.path == "/health":
        responses["503"] = {**success, "description": "It is not well"}
    return responses


def _refusals(route: Route) -> list[int]:
    refusals = {422, 503, *route.refusals}
    if not route.open:
        refusals.add(401)
    if "{" in route.path:
        refusals |= {400, 404}
    if route.body is not None:
        refusals |= {400, 413, 415}
    if route.changes:
        refusals.add(400)
    if route.query is not None and "at" in route.query.expected.__struct_fields__:
        refusals.add(410)
    return sorted(refusals)
