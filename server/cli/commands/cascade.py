"""``nas cascade``: two or three downloaded models, or the halves of one, as one that is faster on average."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from nas.core.cascades import CascadeReport


def cascade(
    models: Annotated[
        list[Path], typer.Argument(help="Downloaded models of one search, or one alone.", metavar="MODEL.ZIP...")
    ],
    out: Annotated[Path, typer.Option(help="The zip file to write.")] = Path("cascade.zip"),
    within: Annotated[float, typer.Option(min=0, help="Points below the most accurate model that it may cost.")] = 0.0,
    expected_ms: Annotated[float | None, typer.Option(min=0, help="At most this latency on average.")] = None,
    p95_ms: Annotated[float | None, typer.Option(min=0, help="At most this 95th percentile of latency.")] = None,
    members: Annotated[int, typer.Option(min=2, max=3, help="At most so many members.")] = 3,
) -> None:
    """Make a cascade of downloaded models: a fast one answers where it is sure, others elsewhere.

    Thresholds are fitted to the validation images of the search, whose data have to be readable here. The cascade that
    takes least on average is then run on every test image on this machine, in turn with the single model that it
    replaces. One model alone gets an early exit, behind which the rest of it runs only where the exit is not sure.
    `python run.py images.npy` in the written zip file runs it.

    Example: `nas pull SEARCH all && nas cascade *.zip --within 0.5`
    """
    from nas.cascade_package import make_cascade, read_packages  # brings torch
    from nas.early_exits import make_early_exit

    packages, data = read_packages(models)
    if len(packages) == 1:
        zip_file, report = make_early_exit(packages[0], data, within=within, expected_ms=expected_ms, p95_ms=p95_ms)
    else:
        zip_file, report = make_cascade(
            packages, data, within=within, expected_ms=expected_ms, p95_ms=p95_ms, most_members=members
        )
    out.write_bytes(zip_file)
    console = Console()
    for line in report_lines(report):
        console.print(line, highlight=False)
    console.print(f"written: {out}", highlight=False)


def report_lines(report: CascadeReport) -> list[str]:
    """What the cascade does beside the single network, for people."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(report.members, report.shares, strict=True))
    measured, single = report.measured, report.single_measured
    return [
        f"members, and the share of test images that each has answered: {shares}",
        f"cascade          test accuracy {report.test_accuracy:.2f} %, measured {measured.mean_ms:.4g} ms on average, "
        f"median {measured.median_ms:.4g}, 95th percentile {measured.p95_ms:.4g} ({measured.images} images)",
        f"{report.single:16} test accuracy {report.single_test_accuracy:.2f} %, measured {single.mean_ms:.4g} ms on "
        f"average, median {single.median_ms:.4g}, 95th percentile {single.p95_ms:.4g}",
        f"on average {report.saved_percent:.0f} % less than the single network; expected from validation images: "
        f"{report.expected_ms:.4g} ms",
    ]
