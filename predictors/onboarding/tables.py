"""Latencies as somebody else measured them: a table of architectures and milliseconds, read and checked.

A table is CSV, JSON or Parquet. Architectures are in a column ``arch`` (indices of choices, such as ``0-2-1`` or a
list), or in a column for each decision of the space, holding its choices. Values are in ``ms`` for one device, or in
``ms.NAME`` for each of several, where cells may be empty; ``energy_mj`` and ``peak_mb`` may stand beside ``ms``, and
``energy_mj.NAME`` beside those of several devices. Rows count from 1, the header apart.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from nas.core.arch import Floats, Genes, as_archs
from nas.core.errors import InvalidData, UnknownName
from nas.core.ports import SearchSpace
from predictors.onboarding.latency_table import ENERGY, LatencyTable, measured_as_written, simplified

Kind = Literal["csv", "json", "parquet"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Unit = Literal["s", "ms", "us", "ns"]
UNITS: Mapping[Unit, float] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}  # in ms

MAX_ROWS = 200_000
MAX_COLUMNS = 1_000
MAX_CELLS = 4_000_000
SLOWEST_MS, FASTEST_MS = 1e5, 1e-4  # a table all beyond is in another unit
FAR = 300.0  # times the median: no networks span as much, but milliseconds among microseconds do
_MAX_PROBLEMS = 5
_EXTRAS = (ENERGY, "peak_mb")
Networks = Literal["as_written", "simplified"]


@dataclass(frozen=True)
class RawTable:
    """Columns by name, all of one length, as they came: nothing of them is known but that they are numbers, texts,
    lists of numbers, or None."""

    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def devices(self) -> list[str]:
        """The devices that have a column; one without a name is the only one."""
        return [name.removeprefix("ms").removeprefix(".") for name in self.columns if _is_ms(name)]

    def dump(self) -> bytes:
        """The table as bytes; ``RawTable.load`` reads them back."""
        return json.dumps({"columns": self.columns}, allow_nan=False).encode()

    @staticmethod
    def load(data: bytes) -> RawTable:
        """Inverse of ``dump``. Raises InvalidData for bytes that are no such table."""
        try:
            columns = json.loads(data)["columns"]
            if not all(isinstance(values, list) for values in columns.values()):
                raise TypeError
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData("these bytes are no uploaded table") from error
        return RawTable(columns)


def read_table(data: bytes, kind: Kind) -> RawTable:
    """A table from a file's bytes. Raises InvalidData for what is none, and for one that is too large."""
    readers = {"csv": _read_csv, "json": _read_json, "parquet": _read_parquet}
    columns = readers[kind](data)
    if not columns or not next(iter(columns.values())):
        raise InvalidData("expected a table with a header and at least one row, got none")
    rows = len(next(iter(columns.values())))
    if rows > MAX_ROWS or len(columns) > MAX_COLUMNS or rows * len(columns) > MAX_CELLS:
        raise InvalidData(
            f"expected at most {MAX_ROWS} rows, {MAX_COLUMNS} columns and {MAX_CELLS} cells, "
            f"got {rows} rows of {len(columns)} columns"
        )
    table = RawTable({name: [_plain(v) for v in values] for name, values in columns.items()})
    if not table.devices:
        raise InvalidData(f"expected a column ms, or ms.NAME for each device, got {', '.join(columns)}")
    return table


def check_table(
    table: RawTable, space: SearchSpace, unit: Unit | None = None, networks: Networks | None = None
) -> LatencyTable:
    """The table as networks of ``space`` and milliseconds. ``unit``: that of its latencies, if it is known; else they
    are taken for milliseconds, and refused where they cannot be. ``networks``: whether they were measured as they are
    written, or simplified; None: found out (``measured_as_written``). Of rows that are the same network once it is
    simplified, the median counts.

    Raises InvalidData, with the rows, for values that are negative, missing or no numbers, architectures that are
    unknown or come twice, and columns that mean nothing; and for networks as written in a space without them.
    """
    if networks == "as_written" and space.features_as_written is None:
        raise InvalidData(
            f"expected simplified networks, since {space.name} never builds inactive parts, got as_written"
        )
    latency = {name: values for name, values in table.columns.items() if _is_ms(name)}
    extra_columns = {name: values for name, values in table.columns.items() if name in _EXTRAS}
    energy_columns = {name: values for name, values in table.columns.items() if name.startswith(f"{ENERGY}.")}
    _check_energy_columns(energy_columns, table.devices)
    genes_NG = _architectures(table, space, {*latency, *extra_columns, *energy_columns})
    problems: list[str] = []
    several = len(latency) > 1
    values_DN = np.array([_numbers(name, v, problems, gaps=several) for name, v in latency.items()])
    extras = {name: _numbers(name, v, problems, gaps=False) for name, v in extra_columns.items()}
    energies = {name: _numbers(name, v, problems, gaps=True) for name, v in energy_columns.items()}
    _raise(problems)
    values_DN = values_DN * UNITS[unit or "ms"]
    for name, values_N in zip(latency, values_DN, strict=True):
        _check_unit(name, values_N[np.isfinite(values_N)], unit)
        _check_alike(name, values_N, space, genes_NG)
    checked = LatencyTable(
        genes_NG,
        tuple(table.devices),
        values_DN,
        extras,
        True,
        {name.removeprefix(f"{ENERGY}."): values_N for name, values_N in energies.items()},
    )
    as_written = networks == "as_written" if networks is not None else measured_as_written(space, checked)
    return checked if as_written else simplified(space, checked)


def _check_energy_columns(columns: Iterable[str], devices: Sequence[str]) -> None:
    for name in columns:
        if name.removeprefix(f"{ENERGY}.") not in devices:
            raise UnknownName("device of an energy column", name.removeprefix(f"{ENERGY}."), devices)


def _is_ms(name: str) -> bool:
    return name == "ms" or (name.startswith("ms.") and len(name) > 3)


def _read_csv(data: bytes) -> dict[str, list[Any]]:
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(f"not CSV in UTF-8: {error}") from error
    rows = [row for row in rows if row]
    if not rows:
        return {}
    header = [name.strip() for name in rows[0]]
    _check_separator(header)
    _check_header(header)
    for i, row in enumerate(rows[1:], start=1):
        if len(row) != len(header):
            raise InvalidData(f"row {i}: expected {len(header)} cells as in the header, got {len(row)}")
    return {name: [row[c].strip() for row in rows[1:]] for c, name in enumerate(header)}


def _read_json(data: bytes) -> dict[str, list[Any]]:
    try:
        record = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_distinct_columns)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidData(f"not JSON in UTF-8: {error}") from error
    if isinstance(record, dict) and record and all(isinstance(v, list) for v in record.values()):
        lengths = {name: len(values) for name, values in record.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidData(f"expected columns of one length, got {lengths}")
        return record
    if isinstance(record, list) and all(isinstance(row, dict) for row in record):
        names = list(dict.fromkeys(name for row in record for name in row))
        return {name: [row.get(name) for row in record] for name in names}
    raise InvalidData("expected a JSON list of rows, each an object, or an object with a list for each column")


def _distinct_columns(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_header([name for name, _ in pairs])
    return dict(pairs)


def _read_parquet(data: bytes) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        about = file.metadata
        if about.num_rows * max(1, about.num_columns) > MAX_CELLS or about.num_rows > MAX_ROWS:
            raise InvalidData(f"expected at most {MAX_ROWS} rows, got {about.num_rows} of {about.num_columns} columns")
        if sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups)) > 64 * MAX_CELLS:
            raise InvalidData("the table is too large once it is unpacked")
        columns: dict[str, list[Any]] = file.read().to_pydict()
    except pa.ArrowMemoryError as error:
        raise MemoryError(str(error)) from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"not a Parquet file: {error}") from error
    return columns


def _check_separator(header: Sequence[str]) -> None:
    """Raises InvalidData for the CSV of programs that write decimal commas and so separate cells otherwise."""
    separator = next((s for s in (";", "\t", "|") if s in header[0]), None)
    if len(header) == 1 and separator is not None:
        raise InvalidData(
            f"expected commas between cells and decimal points, got {separator!r} in the header {header[0]!r:.60}: "
            "save the table as comma-separated CSV"
        )


def _check_header(header: Sequence[str]) -> None:
    if len(set(header)) != len(header) or "" in header:
        raise InvalidData(f"expected distinct column names, got {', '.join(map(repr, header))}")


def _plain(value: Any) -> Any:
    """A cell as JSON can keep it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, list) and all(isinstance(v, int) for v in value):
        return value
    return str(value)


def _architectures(table: RawTable, space: SearchSpace, value_columns: set[str]) -> Genes:
    names = [d.name for d in space.decisions]
    problems: list[str] = []
    if "arch" in table.columns:
        surplus = set(table.columns) - value_columns - {"arch"}
        rows = [_indices(cell, space, i, problems) for i, cell in enumerate(table.columns["arch"], start=1)]
    else:
        missing = [n for n in names if n not in table.columns]
        if missing:
            raise InvalidData(
                f"expected a column arch, or one for each decision of {space.name}; missing: {_listed(missing)}"
            )
        surplus = set(table.columns) - value_columns - set(names)
        choices = [{str(c): k for k, c in enumerate(d.choices)} for d in space.decisions]
        rows = [
            [_choice(table.columns[n][i], choices[g], n, i + 1, problems) for g, n in enumerate(names)]
            for i in range(len(table))
        ]
    if surplus:
        expected = ["arch", "ms", "ms.NAME", *_EXTRAS, f"{ENERGY}.NAME", *names[:20]]
        raise UnknownName("column", sorted(surplus)[0], expected)
    _raise(problems)
    genes_NG = np.array(rows, dtype=np.int64)
    # Where inactive parts are never built, genes that differ in them alone are one network.
    built_NG = space.canonical(genes_NG) if space.features_as_written is None else genes_NG
    first: dict[bytes, int] = {}
    for i, row in enumerate(built_NG, start=1):
        if (earlier := first.setdefault(row.tobytes(), i)) != i:
            problems.append(f"row {i}: the same network as row {earlier}")
    _raise(problems)
    return genes_NG


def _indices(cell: Any, space: SearchSpace, row: int, problems: list[str]) -> list[int]:
    expected = len(space.decisions)
    if isinstance(cell, str) and re.fullmatch(r"[\[(]?\s*\d+([\s,;|_-]+\d+)*\s*[\])]?", cell) and len(cell) < 10_000:
        cell = [int(part) for part in re.findall(r"\d{1,9}", cell)]
    if not isinstance(cell, list):
        example = "-".join("0" * min(expected, 6))
        problems.append(f"row {row}: expected an architecture such as {example}, got {cell!r:.60}")
        return [0] * expected
    if len(cell) != expected:
        problems.append(f"row {row}: expected {expected} indices, one for each decision, got {len(cell)}")
        return [0] * expected
    for gene, decision in zip(cell, space.decisions, strict=True):
        if not 0 <= gene < len(decision.choices):
            last = len(decision.choices) - 1
            problems.append(f"row {row}: unknown architecture: {decision.name} is {gene}, expected 0 to {last}")
            return [0] * expected
    return cell


def _choice(cell: Any, choices: Mapping[str, int], name: str, row: int, problems: list[str]) -> int:
    text = str(cell).strip()
    if text in choices:
        return choices[text]
    with_point = {str(float(c)): k for c, k in choices.items() if re.fullmatch(r"-?\d+(\.\d+)?", c)}
    if re.fullmatch(r"-?\d+(\.\d+)?", text) and str(float(text)) in with_point:
        return with_point[str(float(text))]
    problems.append(f"row {row}: unknown architecture: {name} is {text!r:.40}, expected one of {_listed(choices)}")
    return 0


def _numbers(name: str, values: Sequence[Any], problems: list[str], *, gaps: bool) -> Floats:
    out = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if value is None or value == "":
            if not gaps:
                problems.append(f"row {i + 1}: {name} is missing")
            continue
        try:
            number = float("nan") if isinstance(value, bool | list) else float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if not math.isfinite(number):
            hint = "; decimals follow a point" if isinstance(value, str) and re.fullmatch(r"-?\d+,\d+", value) else ""
            problems.append(f"row {i + 1}: expected a number as {name}, got {value!r:.40}{hint}")
        elif number <= 0:
            problems.append(f"row {i + 1}: expected a positive {name}, got {number:g}")
        else:
            out[i] = number
    return out


def _check_unit(name: str, values_ms: Floats, unit: Unit | None) -> None:
    """Raises InvalidData for latencies that no network has in milliseconds."""
    if len(values_ms) == 0:
        raise InvalidData(f"{name} has no value at all")
    if unit is not None:
        return
    low, high = float(values_ms.min()), float(values_ms.max())
    guess = "microseconds or nanoseconds" if low > SLOWEST_MS else "seconds" if high < FASTEST_MS else None
    if guess is not None:
        raise InvalidData(
            f"{name} goes from {low:g} to {high:g}: are these {guess}? Expected milliseconds; say what they are with "
            f"the unit: {', '.join(UNITS)}"
        )


def _check_alike(name: str, values_N: Floats, space: SearchSpace, genes_NG: Genes) -> None:
    """Raises InvalidData for single values that are in another unit than the others, it seems. A network that gives the
    same output for every input may be as fast as it likes: runtimes compute it beforehand."""
    ratio_N = values_N / np.nanmedian(values_N)
    archs = as_archs(space.id, genes_NG)
    fast = [i for i in np.flatnonzero(ratio_N < 1 / FAR) if not space.is_constant(archs[i])]
    rows = np.sort(np.array([*np.flatnonzero(ratio_N > FAR), *fast], dtype=np.intp)) + 1
    if len(rows):
        value, median = values_N[rows[0] - 1], np.nanmedian(values_N)
        raise InvalidData(
            f"{name}: the values of {len(rows)} rows are more than {FAR:g} times off the median of {median:g} ms, "
            f"such as {value:g} in row {rows[0]}: are they in another unit? Rows: {_listed(rows.tolist())}"
        )


def _raise(problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - _MAX_PROBLEMS} more)" if len(problems) > _MAX_PROBLEMS else ""
        raise InvalidData("; ".join(problems[:_MAX_PROBLEMS]) + more)


def _listed(names: Iterable[Any]) -> str:
    listed = list(names)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
