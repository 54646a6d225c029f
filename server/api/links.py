"""Links of the API's description: what an answer names can be asked for next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

# Of an operation's answer: where it holds the parameters of the paths below.
_FROM: Mapping[tuple[str, str, str], tuple[str, Mapping[str, str]]] = {
    ("get", "/v1/searches", "200"): ("/v1/searches/{id}", {"id": "$response.body#/items/0/id"}),
    ("post", "/v1/searches", "201"): ("/v1/searches/{id}", {"id": "$response.body#/id"}),
    ("get", "/v1/searches/{id}/candidates", "200"): (
        "/v1/searches/{id}/subnets",
        {"id": "$request.path.id", "arch": "$response.body#/items/0/arch"},
    ),
    ("get", "/v1/searches/{id}/artifacts", "200"): (
        "/v1/searches/{id}/artifacts",
        {"id": "$request.path.id", "arch": "$response.body#/0/arch", "name": "$response.body#/0/name"},
    ),
    ("get", "/v1/devices", "200"): ("/v1/devices/{name}", {"name": "$response.body#/0/name"}),
    ("get", "/v1/predictors", "200"): ("/v1/predictors/{id}", {"id": "$response.body#/0/id"}),
    ("get", "/v1/tokens", "200"): ("/v1/tokens/{id}", {"id": "$response.body#/0/id"}),
}


def describe_links(app: FastAPI) -> None:
    """Adds the links to the description that ``app`` gives of itself."""
    plain = app.openapi

    def with_links() -> dict[str, Any]:
        if app.openapi_schema is None:
            paths = plain()["paths"]
            for (method, path, status), (below, values) in _FROM.items():
                paths[path][method]["responses"][status]["links"] = _links(paths, below, values)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = with_links  # type: ignore[method-assign]


def _links(paths: Mapping[str, Any], below: str, values: Mapping[str, str]) -> dict[str, Any]:
    return {
        operation["operationId"]: {"operationId": operation["operationId"], "parameters": dict(values)}
        for path, operations in paths.items()
        if path.startswith(below) and set(re.findall(r"{(\w+)}", path)) == set(values)
        for operation in operations.values()
        if not any(p["in"] == "query" and p.get("required") for p in operation.get("parameters", []))
    }
