"""Count the names that tell a reader nothing, and hold the counts to budgets.

``python -m tools.names`` prints the figures of the repository and where they exceed a budget of ``tools/names.toml``;
the exit status is 1 if one does. ``--list`` prints every counted place, ``--folders`` one row for each folder.

- contentless: bindings (variables, arguments, attributes, functions, classes, loop and import names) whose whole name
  is one word of a list, for each 1,000 lines that are not blank
- duplicate classes: names of classes and type aliases that several modules define, unless listed as parallel
- retired: bindings and modules named by a word that the glossary replaced
- Any mappings: ``dict[str, Any]``, ``Mapping[str, Any]`` and the like
- body length: lines from a function's first statement after its docstring to its last; median and 90th percentile
- documented: percentage of public modules, classes, functions and methods that have a docstring
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAMEL_CASE = re.compile(r"_*[A-Z][a-z]\w*$")
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documentable = ast.Module | ast.ClassDef | Function


@dataclass(frozen=True, order=True)
class Occurrence:
    """A name, and the line that binds or uses it."""

    path: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name}"


@dataclass(frozen=True)
class NameRules:
    """The content of ``tools/names.toml``.

    Args:
        folders: Folders of Python files by the name of their budgets.
        contentless: Words that may not be a whole name.
        parallel_classes: Class names that several modules may define.
        retired: Replacement by retired name.
        budgets: Limits by figure, by the name of the folders.
    """

    folders: Mapping[str, Sequence[str]]
    contentless: frozenset[str]
    parallel_classes: frozenset[str]
    retired: Mapping[str, str]
    budgets: Mapping[str, Mapping[str, float]]

    @staticmethod
    def read(path: Path) -> NameRules:
        """Read the rules from a TOML file."""
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        return NameRules(
            values["folders"],
            frozenset(values["contentless"]),
            frozenset(values["parallel_classes"]),
            values["retired"],
            values["budgets"],
        )


@dataclass
class Count:
    """The figures of a set of files, with the places that they count."""

    lines: int = 0
    public: int = 0
    body_lengths: list[int] = field(default_factory=list)
    contentless: list[Occurrence] = field(default_factory=list)
    retired: list[Occurrence] = field(default_factory=list)
    any_mappings: list[Occurrence] = field(default_factory=list)
    undocumented: list[Occurrence] = field(default_factory=list)
    classes: dict[str, list[Occurrence]] = field(default_factory=lambda: defaultdict(list))

    def add(self, path: str, source: str, rules: NameRules) -> None:
        """Count one file."""
        tree = ast.parse(source, path)
        self.lines += sum(1 for line in source.splitlines() if line.strip())
        for binding in [*bindings(tree, path), Occurrence(path, 1, Path(path).stem)]:
            name = binding.name.lstrip("_")
            if name.lower() in rules.contentless:
                self.contentless.append(binding)
            if name in rules.retired:
                self.retired.append(binding)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self.classes[node.name].append(Occurrence(path, node.lineno, node.name))
            elif isinstance(node, Function):
                self.body_lengths.append(body_length(node))
            elif isinstance(node, ast.Subscript) and is_any_mapping(node):
                self.any_mappings.append(Occurrence(path, node.lineno, ast.unparse(node)))
        for alias in type_aliases(tree, path):
            self.classes[alias.name].append(alias)
        for name, documentable in public_objects(tree, Path(path).stem):
            self.public += 1
            if ast.get_docstring(documentable) is None:
                self.undocumented.append(Occurrence(path, getattr(documentable, "lineno", 1), name))

    def duplicate_classes(self, parallel: Iterable[str] = ()) -> dict[str, list[Occurrence]]:
        """Names of classes and type aliases that more than one module defines, with their places."""
        allowed = set(parallel)
        return {
            name: places
            for name, places in sorted(self.classes.items())
            if len({place.path for place in places}) > 1 and name not in allowed
        }

    def figures(self, rules: NameRules) -> dict[str, float]:
        """Each figure by the name of its budget."""
        documented = 100.0 * (1.0 - len(self.undocumented) / self.public) if self.public else 100.0
        return {
            "contentless_per_1000_lines": round(1000.0 * len(self.contentless) / max(self.lines, 1), 1),
            "duplicate_classes": len(self.duplicate_classes(rules.parallel_classes)),
            "retired": len(self.retired),
            "any_mappings": len(self.any_mappings),
            "body_p50": percentile(self.body_lengths, 0.5),
            "body_p90": percentile(self.body_lengths, 0.9),
            "documented_percent": round(documented, 1),
        }


def bindings(tree: ast.AST, path: str) -> Iterator[Occurrence]:
    """Yield every name that the code binds: targets, arguments, attributes, functions, classes and imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield Occurrence(path, node.lineno, name)
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield Occurrence(path, node.lineno, name)
            case ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                yield Occurrence(path, node.lineno, name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                yield Occurrence(path, node.lineno, name)


def type_aliases(tree: ast.Module, path: str) -> Iterator[Occurrence]:
    """Yield the names in CamelCase that a module assigns."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if CAMEL_CASE.match(
                name
            ):
                yield Occurrence(path, node.lineno, name)


def body_length(function: Function) -> int:
    """Lines of a function's statements without its docstring; 0 if it has no others."""
    statements = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    if not statements:
        return 0
    return (statements[-1].end_lineno or statements[-1].lineno) - statements[0].lineno + 1


def is_any_mapping(node: ast.Subscript) -> bool:
    """Whether an annotation is a mapping from strings to ``Any``."""
    container = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", None)
    return container in MAPPINGS and ast.unparse(node.slice) in ("(str, Any)", "str, Any")


def public_objects(tree: ast.Module, module: str) -> Iterator[tuple[str, Documentable]]:
    """Yield the module itself, its public classes and functions, and the public methods of these classes."""
    if tree.body and not module.startswith("__"):
        yield module, tree
    yield from _public_members(tree.body)


def _public_members(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Documentable]]:
    for node in body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from _public_members(node.body, f"{node.name}.")


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest value that at least this share of the values does not exceed (nearest rank); 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(share * 100) // 100) - 1)] if ordered else 0


def count(root: Path, folders: Iterable[str], rules: NameRules) -> Count:
    """Count all Python files below some folders."""
    total = Count()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            total.add(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"), rules)
    return total


def excesses(figures: Mapping[str, float], budgets: Mapping[str, float]) -> list[str]:
    """One sentence for each figure beyond its budget: an upper limit, or for ``documented_percent`` a lower one."""
    return [
        f"{figure} is {figures[figure]:g}, the budget is {limit:g}"
        for figure, limit in budgets.items()
        if (figures[figure] < limit if figure == "documented_percent" else figures[figure] > limit)
    ]


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as text: one row for each set of files, one column for each figure."""
    columns = list(next(iter(rows.values())))
    width = max(len(label) for label in rows)
    lines = [" " * width + "".join(f"  {column}" for column in columns)]
    for label, figures in rows.items():
        lines.append(f"{label:<{width}}" + "".join(f"  {figures[column]:>{len(column)}g}" for column in columns))
    return "\n".join(lines)


def listing(total: Count, rules: NameRules) -> str:
    """Every counted place, one a line."""
    groups = {
        "contentless": total.contentless,
        "retired": [
            Occurrence(p.path, p.line, f"{p.name} (now {rules.retired[p.name.lstrip('_')]})") for p in total.retired
        ],
        "duplicate class": [p for places in total.duplicate_classes(rules.parallel_classes).values() for p in places],
        "Any mapping": total.any_mappings,
        "undocumented": total.undocumented,
    }
    return "\n".join(f"{kind}: {place}" for kind, places in groups.items() for place in places)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Print the figures; the result is 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description="Count contentless, duplicate and retired names.")
    parser.add_argument("--list", action="store_true", help="print every counted place")
    parser.add_argument("--folders", action="store_true", help="print one row for each folder")
    options = parser.parse_args(arguments)
    rules = NameRules.read(root / "tools" / "names.toml")
    counts = {name: count(root, folders, rules) for name, folders in rules.folders.items()}
    rows = {name: total.figures(rules) for name, total in counts.items()}
    problems = [f"{name}: {text}" for name, row in rows.items() for text in excesses(row, rules.budgets[name])]
    if options.folders:
        rows.update((folder, count(root, [folder], rules).figures(rules)) for folder in subfolders(root, rules))
    out = [table(rows), *(listing(total, rules) for total in counts.values() if options.list), *problems]
    sys.stdout.write("\n".join(out) + "\n")
    return 1 if problems else 0


def subfolders(root: Path, rules: NameRules) -> list[str]:
    """Every folder of Python files, one and two levels deep."""
    tops = [folder for folders in rules.folders.values() for folder in folders]
    nested = [path.parent.relative_to(root) for top in tops for path in (root / top).rglob("*.py")]
    return sorted({"/".join(path.parts[:2]) for path in nested} | set(tops))


if __name__ == "__main__":
    sys.exit(main())
