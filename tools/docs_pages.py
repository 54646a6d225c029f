"""Pages of the documentation that are made from the code when the site is built: a hook of MkDocs (``mkdocs.yml``).

The reference of the spec comes from its models, that of the command line from the commands, that of REST from OpenAPI.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nas.core.spec import DeviceSpec, SearchSpec
from nas.core.spec_template import commented_spec

_COMMAND_TIMEOUT_S = 60.0
_REPOSITORY_LINK = re.compile(r"\]\((\.\./[^)#]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages (called by MkDocs)."""
    from mkdocs.structure.files import File

    for path, make in PAGES.items():
        files.append(File.generated(config, path, content=make()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links to files of the repository outside ``docs`` into their names: the site does not hold them."""
    return _REPOSITORY_LINK.sub(lambda match: f"] (`{match[1].removeprefix('../')}`)", markdown)


def spec_page() -> str:
    """Every key of specs of searches and devices, with type, default and the sentence of its model."""
    parts = ["# The spec\n\nA search is one YAML or JSON file. `nas init` writes this one:\n"]
    parts.append(f"```yaml\n{commented_spec(SearchSpec())}```\n")
    for title, model in (("Searches", SearchSpec), ("Devices", DeviceSpec)):
        parts.append(f"## {title}\n")
        parts += [_model_section(nested) for nested in dict.fromkeys(_models(model))]
    return "\n".join(parts)


def _model_section(model: type[BaseModel]) -> str:
    rows = [_field_row(name, field) for name, field in model.model_fields.items()]
    about = " ".join((model.__doc__ or "").replace("``", "`").split())
    return f"### {model.__name__}\n\n{about}\n\n| key | type | default |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _field_row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=False)!r}`"
    if field.default_factory is not None:
        default = "see above"
    kind = re.sub(r"<class '([^']+)'>", r"\1", str(field.annotation)).replace("typing.", "").replace("|", "\\|")
    return f"| `{name}` | `{_short(kind)}` | {default} |"


def _short(kind: str) -> str:
    return re.sub(r"[a-z_]+(?:[.][a-z_]+)*[.]([A-Za-z]+)", r"\1", kind)


def _models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The model and those that its fields name."""
    yield model
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            yield from _models(part)


def _parts(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def cli_page() -> str:
    """The help of every command, by heading."""
    from server.cli.app import COMMANDS

    parts = ["# The command line\n", _completion()]
    for heading in dict.fromkeys(entry.heading for entry in COMMANDS):
        parts.append(f"## {heading}\n")
        for entry in COMMANDS:
            if entry.heading == heading:
                parts.append(f"### nas {entry.name}\n\n{entry.help}\n\n```text\n{_help(entry.name)}\n```\n")
    return "\n".join(parts)


def _completion() -> str:
    return (
        "`nas --help` lists the commands by what they are for; each has its own `--help`. Wherever a search, an "
        "onboarding or a network is named, the beginning of its id is enough, or a name that people can say, such as "
        "`calm-amber-otter`; a search may also be called by the name of its spec. "
        "`HWNAS_URL` and `HWNAS_TOKEN` stand for `--url` and `--token`.\n\n"
        "Completion of commands and options: `nas --install-completion` sets it up for bash, zsh, fish or PowerShell, "
        "and `nas --show-completion` prints the script.\n"
    )


def _help(command: str) -> str:
    """What ``nas COMMAND --help`` prints, in plain text of 100 columns."""
    from typer.testing import CliRunner

    from server.cli.app import app

    environment = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "100"}
    result = CliRunner().invoke(app, [command, "--help"], env=environment, color=False)
    return re.sub(r"\x1b\[[0-9;]*m", "", result.stdout).strip()


def rest_page() -> str:
    """Every route by its tag, with its parameters."""
    lines = [
        "# The REST API",
        "",
        "A running service describes itself: `/docs` is a page to try every route, `/redoc` one to read, and "
        "`/openapi.json` the description. Routes below `/v1` need a token unless the service is open on loopback.",
    ]
    by_tag: dict[str, list[str]] = {}
    for path, methods in _openapi()["paths"].items():
        for method, route in methods.items():
            by_tag.setdefault((route.get("tags") or ["service"])[0], []).append(_route(method, path, route))
    for tag, routes in by_tag.items():
        lines += ["", f"## {tag}", "", *routes]
    return "\n".join(lines) + "\n"


def _route(method: str, path: str, route: Mapping[str, Any]) -> str:
    parameters = [f"`{p['name']}`" for p in route.get("parameters", ()) if p["in"] == "query"]
    query = f" Query: {', '.join(parameters)}." if parameters else ""
    about = " ".join(route.get("description", "").split())
    return f"### {method.upper()} {path}\n\n**{route.get('summary', '')}.** {about}{query}\n"


def _openapi() -> dict[str, Any]:
    """The description of the service, over a store that is thrown away."""
    from server.api.app import create_app
    from server.settings import Settings
    from server.store.store import open_store

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with open_store(f"sqlite:///{home / 'docs.db'}", str(home / "blobs")) as store:
            description: dict[str, Any] = create_app(Settings(home=home), store).openapi()
            return description


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/spec.md": spec_page,
    "reference/cli.md": cli_page,
    "reference/rest.md": rest_page,
}


def build(site: Path) -> None:
    """Build the site with MkDocs, offline. Raises CalledProcessError for a page or link that is wrong."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(root), "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=_COMMAND_TIMEOUT_S)


if __name__ == "__main__":
    build(Path(__file__).parent.parent / "server" / "help_site")
