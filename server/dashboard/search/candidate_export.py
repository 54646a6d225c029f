"""Candidates as a CSV or JSON file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Literal

from nas.core.json_types import JsonObject
from nas.core.metrics import METRICS
from nas.core.spoken_names import spoken_name
from nas.schemas.candidates import CandidateSchema
from nas.schemas.marks import MarkBody, MarkSchema
from server.dashboard.marks import mark_of

ExportFormat = Literal["csv", "json"]
_COLUMNS = ("arch", "spoken_name", "name", "origin", "status", "on_front", "starred", "note")


def export_text(candidates: Sequence[CandidateSchema], marks: Sequence[MarkSchema], kind: ExportFormat) -> str:
    """All metrics of the candidates, with star and note; JSON has the whole records of the API."""
    if kind == "json":
        return json.dumps([_record(c, mark_of(marks, c.arch)) for c in candidates], indent=2)
    metrics = [name for name in METRICS if any(name in c.metrics for c in candidates)]
    units = {name: f" [{METRICS[name].unit}]" if METRICS[name].unit else "" for name in metrics}
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow([*_COLUMNS, *(name + units[name] for name in metrics)])
    for candidate in candidates:
        record = _record(candidate, mark_of(marks, candidate.arch))
        values = [candidate.metrics[name].value if name in candidate.metrics else "" for name in metrics]
        writer.writerow([*(record[column] for column in _COLUMNS), *values])
    return table.getvalue()


def _record(candidate: CandidateSchema, mark: MarkBody) -> JsonObject:
    names = {"spoken_name": spoken_name(candidate.arch), "starred": mark.starred, "note": mark.note}
    return {**candidate.model_dump(mode="json"), **names}
