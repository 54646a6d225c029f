"""``nas prune-tokens``: a downloaded vision transformer that goes on with fewer tokens from block to block."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def prune_tokens(
    model: Annotated[Path, typer.Argument(help="A downloaded model of the space elastic_vit.", metavar="MODEL.ZIP")],
    share: Annotated[float, typer.Option("--macs", help="MACs that its blocks may take, as a share.")] = 0.7,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of training images from which rates are learned.")] = 3,
    out: Annotated[Path, typer.Option(help="The zip file to write.")] = Path("pruned.zip"),
) -> None:
    """Prune and merge tokens of a vision transformer, so that it takes a share of its MACs (DiffRate).

    How many tokens each block keeps is learned from the training images of the search, whose data have to be readable
    here; the weights stay as they are. Both models are then compared on test images and timed on this machine.

    Example: `nas prune-tokens vit.zip --macs 0.7`
    """
    from search_spaces.elastic_vit.token_compression import RateRecipe  # brings torch
    from search_spaces.elastic_vit.token_package import compress_tokens, read_model

    downloaded, spec, data = read_model(model)
    zip_file, report = compress_tokens(downloaded, spec, data, share, recipe=RateRecipe(epochs=epochs))
    out.write_bytes(zip_file)
    console = Console()
    kept = ", ".join(f"{k.pruned} > {k.merged}" if k.pruned > k.merged else str(k.merged) for k in report.kept)
    (before, after), (before_ms, after_ms) = report.accuracies, report.ms
    for line in (
        f"tokens that each block keeps, pruned > merged: {kept}",
        f"MACs of the blocks: {report.macs_share:.0%} of those before",
        f"test accuracy {after:.2f} %, before {before:.2f} %; an image takes {after_ms:.4g} ms, before {before_ms:.4g}",
        f"written: {out}",
    ):
        console.print(line, highlight=False)
