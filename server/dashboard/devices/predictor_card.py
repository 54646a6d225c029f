"""The cards of a device's predictors."""

from __future__ import annotations

from datetime import UTC, datetime
from statistics import fmean

from nicegui import ui

from nas.core.lifecycle import JobStatus
from nas.core.predictor_card import EnergyAccuracy, TransferChoice
from nas.schemas.predictors import PredictorCardSchema
from server.dashboard import formatting
from server.dashboard.chart_view import labelled_chart
from server.dashboard.charts.predictor import predictor_chart
from server.dashboard.elements import definition_list, div, heading, kind_chip, notice, stat, text


def draw_predictors(cards: list[PredictorCardSchema], status: JobStatus) -> None:
    """One card for each space."""
    if not cards:
        with div("card empty"):
            heading("No predictor yet", 2)
            if status == "failed":
                text("Retry its onboarding above, or add the device again with other settings.", "muted")
                ui.link("Add a device", "/devices")
            else:
                text("It is fitted at the end of the onboarding.", "muted")
        return
    with div("stack"):
        for card in cards:
            _draw_card(card)


def _draw_card(card: PredictorCardSchema) -> None:
    with div("card stack"):
        with div("card-head").style("margin: 0"):
            heading(f"Predictor for {card.space_name}, version {card.number}", 2)
            if card.kind == "estimated":
                kind_chip(card.kind)
            text(card.id, "mono small muted", "span")
            div("grow")
            text(f"{card.family}, fitted {formatting.age(card.created_at, datetime.now(UTC))}", "small muted")
        if card.kind == "estimated":
            low_ms, high_ms = (formatting.significant(ms) for ms in card.range_ms)
            text(
                f"Fitted to estimates of {card.n} architectures from peak figures, {low_ms} to {high_ms} ms. Nothing "
                "was measured, so there is no accuracy to report.",
                "small muted",
            )
            return
        text("All values are over held-out architectures, as predicted by a fit without them.", "small muted")
        with div("fit"):
            if card.measured_ms:
                source = "Uploaded" if card.source == "table" else "Measured"
                label = f"{source} over predicted latency of held-out architectures"
                labelled_chart(predictor_chart(card), "chart predictor", label)
            _draw_accuracy(card)
        if card.choice is not None:
            _draw_choice(card.choice)
        if card.as_written:
            text("Its networks were measured as they are written, with parts that do nothing.", "small muted")
        if card.energy is not None:
            _draw_energy(card.energy)
        with div("fold", "details"):
            text("Measuring protocol", tag="summary")
            definition_list([(k.replace("_", " "), str(v)) for k, v in card.protocol.items()])


def _draw_accuracy(card: PredictorCardSchema) -> None:
    low_ms, high_ms = card.range_ms
    with div("figures"):
        stat("Mean absolute error (MAPE)", formatting.figure(card.mape, ".1f", " %"))
        if (noise := card.noise) is not None:
            refused = f", {noise.refused} not measured" if noise.refused else ""
            stat(
                "Noise floor of the device",
                f"{100 * noise.floor:.1f} %",
                note=f"undisturbed {noise.undisturbed:.0%} of the time{refused}",
            )
        if card.measured_error:
            stat("95 % intervals", f"±{200 * fmean(card.measured_error):.1f} %", note="of the measurements, on average")
        stat("Coverage of the 95 % bound", formatting.figure(card.coverage, ".1%"))
        stat("Spearman rank correlation", formatting.figure(card.spearman, ".3f"))
        interval = formatting.tau_interval(card.kendall_interval, card.held_out)
        stat("Kendall rank correlation", formatting.figure(card.kendall, ".3f"), note=interval)
        counts = f"predicted by a fit without them; the one in use has {card.n}"
        stat("Held-out architectures", str(card.held_out), note=counts)
        stat("Range", f"{formatting.significant(low_ms)} to {formatting.significant(high_ms)} ms")


def _draw_choice(choice: TransferChoice) -> None:
    if choice.advice:
        notice("warn", "Too few networks", choice.advice)
    with div("fold", "details"):
        text("What it was learned by", tag="summary")
        text(
            "Each option's error where one network in turn is left out, over the mean latency, and its weight.", "small"
        )
        definition_list((option.name, f"{option.error:.1%}, weight {option.weight:.0%}") for option in choice.options)
        if choice.relatives:
            text(f"Known devices: {', '.join(name or 'unnamed' for name in choice.relatives)}.", "small muted")


def _draw_energy(energy: EnergyAccuracy) -> None:
    heading("Energy", 2)
    text("Predicted from the energies of the device's table; the service does not measure energy.", "small muted")
    with div("figures"):
        stat("Mean absolute error (MAPE)", f"{energy.mape:.1f} %")
        stat("Coverage of the 95 % bound", f"{energy.coverage * 100:.1f} %")
        stat("Spearman rank correlation", f"{energy.spearman:.3f}")
        stat("Held-out architectures", str(energy.held_out), note=f"fitted on {energy.n}")
