"""The OpenAPI description: links between operations whose responses and paths hold the same ids, and plain arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

OpenApiDocument = dict[str, Any]  # of the description, as FastAPI makes it

# By operation and status: a path prefix, and where the response holds the parameters of the paths below it.
_SOURCES: Mapping[tuple[str, str, str], tuple[str, Mapping[str, str]]] = {
    ("get", "/v1/searches", "200"): ("/v1/searches/{id}", {"id": "$response.body#/items/0/id"}),
    ("post", "/v1/searches", "201"): ("/v1/searches/{id}", {"id": "$response.body#/id"}),
    ("get", "/v1/searches/{id}/candidates", "200"): (
        "/v1/searches/{id}/candidates",
        {"id": "$request.path.id", "arch": "$response.body#/items/0/arch"},
    ),
    ("get", "/v1/searches/{id}/artifacts", "200"): (
        "/v1/searches/{id}/artifacts",
        {"id": "$request.path.id", "arch": "$response.body#/0/arch", "name": "$response.body#/0/name"},
    ),
    ("get", "/v1/devices", "200"): ("/v1/devices/{name}", {"name": "$response.body#/0/name"}),
    ("get", "/v1/onboardings", "200"): ("/v1/onboardings/{id}", {"id": "$response.body#/items/0/id"}),
    ("get", "/v1/predictors", "200"): ("/v1/predictors/{id}", {"id": "$response.body#/0/id"}),
    ("get", "/v1/tokens", "200"): ("/v1/tokens/{id}", {"id": "$response.body#/0/id"}),
}


def complete_description(app: FastAPI) -> None:
    """Add links to the OpenAPI description of ``app``, and describe tuples as arrays."""
    from_routes = app.openapi

    def completed() -> OpenApiDocument:
        if app.openapi_schema is None:
            description = from_routes()
            _describe_tuples_as_arrays(description)
            paths = description["paths"]
            for (method, path, status), (prefix, values) in _SOURCES.items():
                paths[path][method]["responses"][status]["links"] = _links(paths, prefix, values)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = completed  # type: ignore[method-assign]


def _describe_tuples_as_arrays(node: object) -> None:
    """Replace ``prefixItems``, which not every reader supports, where all items of a tuple are described alike."""
    if isinstance(node, dict):
        items = node.get("prefixItems")
        if isinstance(items, list) and all(item == items[0] for item in items):
            del node["prefixItems"]
            node["items"] = items[0]
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _describe_tuples_as_arrays(child)


def _links(paths: OpenApiDocument, prefix: str, values: Mapping[str, str]) -> OpenApiDocument:
    return {
        operation["operationId"]: {"operationId": operation["operationId"], "parameters": dict(values)}
        for path, operations in paths.items()
        if path.startswith(prefix) and set(re.findall(r"{(\w+)}", path)) == set(values)
        for operation in operations.values()
        if not any(p["in"] == "query" and p.get("required") for p in operation.get("parameters", []))
    }
