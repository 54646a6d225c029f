"""The tooltip of a candidate, composed in the browser of the values that its point carries: thousands of ready texts
would take longer to make and to send than a reader waits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

from nas.core.measures import MetricKind
from nas.core.metrics import METRICS
from nas.schemas.candidates import CandidateSchema
from server.dashboard import formatting
from server.dashboard.charts.options import Datum, Options, tooltip

_FIRST = ("upper_ms", "params", "macs")  # after the metrics of the axes
_LEFT_OUT = ("val_loss", "val_images")
# Writes numbers as ``formatting.quantity`` does; of two decimals equally near, JavaScript takes the larger.
_FORMATTER = """p => {
  const d = p.data;
  if (!d || !d.metrics) return '';
  const html = s => s.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
  const significant = v => v === 0 ? '0' : v.toFixed(Math.max(0, 2 - Math.floor(Math.log10(Math.abs(v)))));
  const short = (v, sizes, plain) => {
    const [size, unit] = sizes.find(([size]) => Math.abs(v) >= size) ?? [0, plain];
    return (size ? significant(v / size) : v.toFixed(0)) + unit;
  };
  const quantity = (v, unit) =>
    unit === '%' ? `${v.toFixed(2)} %` :
    unit === '' ? short(v, [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']], '') :
    unit === 'B' ? short(Math.round(v), [[1e9, ' GB'], [1e6, ' MB'], [1e3, ' kB']], ' B') : `${significant(v)} ${unit}`;
  const rows = METRICS.filter(([name]) => name in d.metrics).map(([name, label, unit]) =>
    `<tr><td>${label}</td><td>${quantity(d.metrics[name], unit)}</td></tr>`);
  const title = html(`${d.arch} · ${d.title} · ${d.status}`);
  return `<div class="tip"><b>${title}</b><table>${rows.join('')}</table></div>`;
}"""


def candidate_datum(candidate: CandidateSchema, xm: str, ym: str) -> Datum:
    """A point of a candidate, with all that its tooltip says and its page is found by."""
    metrics = candidate.metrics
    return {
        "value": [metrics[xm].value, metrics[ym].value],
        "arch": candidate.arch,
        "origin": candidate.origin,
        "title": candidate.name or candidate.origin,
        "status": candidate.status,
        "metrics": {name: metric.value for name, metric in metrics.items() if name not in _LEFT_OUT},
    }


def candidate_tooltip(kinds: Mapping[str, MetricKind], xm: str, ym: str) -> Options:
    """Says the metrics of the candidate under the pointer, those of the axes first. ``kinds``: of all metrics that
    candidates of the chart have."""
    names = [name for name in dict.fromkeys((ym, xm, *_FIRST, *kinds)) if name in kinds and name not in _LEFT_OUT]
    rows = [(n, f"{escape(formatting.label(n))} <i>{kinds[n]}</i>", METRICS[n].unit) for n in names]
    return tooltip(_FORMATTER.replace("METRICS", json.dumps(rows)))
