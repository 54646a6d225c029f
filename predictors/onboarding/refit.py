"""Predictors learn from what was measured after them: every refit is a further version, and none is ever changed.

A version checks itself on the networks that the onboarding held out, as the ones before did, so that their cards can be
compared; all that is fed back is fitted to. It is for later use only if it is not worse than the one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core import registry
from nas.core.arch import Floats, Genes
from nas.core.device import DeviceProfile, Latency
from nas.core.errors import InvalidInput
from nas.core.plugins import NetworkFitter
from nas.core.ports import BlobStore, LatencyPredictor, Refit, SearchSpace, predict_latency
from nas.core.spec import FEWEST_ALONE
from nas.core.unsupported import ExcludedChoice
from predictors.base import CalibratedPredictor
from predictors.families.auto import AutoPredictor
from predictors.families.layer_lut import LayerLutModel
from predictors.families.transfer import FEWEST, Transfer, learn
from predictors.onboarding.card import make_card
from predictors.onboarding.fitting import Fitted, fit_family, fit_networks, fit_transfer
from predictors.onboarding.knowledge import NO_KNOWLEDGE, Knowledge
from predictors.onboarding.measured import fit_result
from predictors.onboarding.results import RefitResult
from predictors.onboarding.selection import draw_held_out
from predictors.relatives import Relatives
from predictors.storage import DeviceMeasurements, load_predictor
from predictors.validation import FitMean, Regressor, check_measured
from predictors.views import FeatureLayout, network_features

FOLDS = 5
MOST_LOST = 0.05  # of mean relative error, over what was known before, for what is gained elsewhere


@dataclass(frozen=True)
class GateDecision:
    """Whether a version may take the place of the one before, and ``why``, for people."""

    better: bool
    why: str


@dataclass(frozen=True)
class Version:
    """A predictor with all that it knows."""

    fitted: Fitted
    measurements: DeviceMeasurements
    verdict: GateDecision

    @property
    def predictor(self) -> LatencyPredictor:
        """What predicts."""
        return self.fitted.predictor


@dataclass(frozen=True)
class RefitService:
    """``nas.core.ports.Refitter``: fits the family of ``predictor`` to ``measurements`` and more. ``kin``: what a
    predictor learns from that has few networks of its own; ``excluded``: what the device does not run."""

    predictor: LatencyPredictor
    measurements: DeviceMeasurements
    space: SearchSpace
    profile: DeviceProfile
    blobs: BlobStore
    kin: Knowledge = NO_KNOWLEDGE
    excluded: tuple[ExcludedChoice, ...] = ()

    def fit(self, genes_NG: Genes, latency_ms_N: Floats, error_N: Floats | None = None) -> Refit:
        """The next version; its record holds its card and its blobs. Raises as ``refitted``."""
        version = refitted(self.predictor, self.measurements, self.space, genes_NG, latency_ms_N, self.kin, error_N)
        fitted, measurements = version.fitted, version.measurements
        checked = (fitted.n, fitted.truth_ms_H, fitted.guess, fitted.error_H)
        card = make_card(
            version.predictor,
            self.profile,
            self.space,
            *checked,
            excluded=self.excluded,
            choice=fitted.choice,
            as_written=measurements.as_written,
        )
        stored = fit_result(version.predictor, card, measurements, self.blobs)
        result = RefitResult(
            card=card,
            blob=stored.blob,
            family=stored.family,
            measurements_blob=stored.measurements_blob,
            networks=stored.networks,
            better=version.verdict.better,
            why=version.verdict.why,
            added=len(measurements.genes_NG) - len(self.measurements.genes_NG),
        )
        return Refit(version.predictor, result.to_json())

    def load(self, record: Mapping[str, Any]) -> LatencyPredictor:
        """The predictor of a record."""
        result = RefitResult.parse(record)
        return load_predictor(result.family, self.blobs.get(result.blob))


def can_learn(predictor: LatencyPredictor, n: int, max_networks: int, kin: Knowledge) -> bool:
    """Whether a predictor of ``n`` networks can be fitted to any number from these to ``max_networks``. One that
    has learned from others needs them, devices each with more networks than it has, until it has enough to stand alone.
    """
    if predictor.family != Transfer.family or n >= FEWEST_ALONE:
        return True
    return n > FEWEST and bool(kin.beside(min(max_networks, FEWEST_ALONE - 1)))


def refitted(
    predictor: LatencyPredictor,
    measurements: DeviceMeasurements,
    space: SearchSpace,
    genes_MG: Genes,
    latency_ms_M: Floats,
    kin: Knowledge = NO_KNOWLEDGE,
    error_M: Floats | None = None,
) -> Version:
    """The version after ``predictor``: fitted, and its bound calibrated anew, with M further measurements, such as
    those of a front that was verified. A network that was measured before counts with its later latency alone.

    A predictor that learned from others does so as long as any of its ``kin`` has more networks than it; then it has to
    stand alone. Raises InvalidInput for networks of another space, for latencies that are not positive numbers,
    and for too few networks to stand alone.
    """
    if genes_MG.ndim != 2 or genes_MG.shape[1] != measurements.genes_NG.shape[1]:
        raise InvalidInput(f"expected genes of shape (M, {measurements.genes_NG.shape[1]}), got {genes_MG.shape}")
    space = measurements.space(space)
    check_measured(space.features(genes_MG), latency_ms_M, fewest=1)
    more = merge_measurements(measurements, space, genes_MG, latency_ms_M, error_M)
    knowledge = kin.beside(len(more.genes_NG)) if predictor.family == Transfer.family else NO_KNOWLEDGE
    if knowledge:
        fitted = fit_transfer(knowledge.tables, space, more.genes_NG, more.latency_ms_N, more.error_N, knowledge.layers)
    else:
        more = more if more.held_out_N.any() else _with_some_held_out(more)
        fitted = fit_family(
            _fitter_of(predictor), space, more.genes_NG, more.latency_ms_N, more.held_out_N, more.error_N
        )
    fit_mean, x_NF = _mean_fitter(fitted.predictor, space, more.genes_NG, knowledge)
    older_N = np.arange(len(x_NF)) < len(measurements.genes_NG)
    verdict = passes_gate(fit_mean, x_NF, more.latency_ms_N, older_N, measurements.latency_ms_N)
    return Version(fitted, more, verdict)


def merge_measurements(
    measurements: DeviceMeasurements,
    space: SearchSpace,
    genes_MG: Genes,
    latency_ms_M: Floats,
    error_M: Floats | None = None,
) -> DeviceMeasurements:
    """The measurements of a device with M more: the networks known before in their old order, then new ones, which are
    not held out. Where only some relative standard errors are known, the median stands for the others."""
    space = measurements.space(space)
    place = {tuple(row): i for i, row in enumerate(space.canonical(measurements.genes_NG).tolist())}
    genes, latency = measurements.genes_NG.tolist(), measurements.latency_ms_N.tolist()
    known_error, new_error = measurements.error_N, error_M
    all_errors = [e for e in (known_error, new_error) if e is not None]
    typical = float(np.median(np.concatenate(all_errors))) if all_errors else math.nan
    errors = [typical] * len(genes) if known_error is None else known_error.tolist()
    added = [typical] * len(genes_MG) if new_error is None else new_error.tolist()
    for row, ms, error in zip(space.canonical(genes_MG).tolist(), latency_ms_M.tolist(), added, strict=True):
        if (i := place.get(tuple(row))) is not None:
            latency[i], errors[i] = ms, error
            continue
        place[tuple(row)] = len(genes)
        genes.append(row)
        latency.append(ms)
        errors.append(error)
    held_out_N = np.zeros(len(genes), dtype=bool)
    held_out_N[: len(measurements.held_out_N)] = measurements.held_out_N
    error_N = np.array(errors) if all_errors else None
    return replace(
        measurements,
        genes_NG=np.array(genes, dtype=np.int64),
        latency_ms_N=np.array(latency),
        held_out_N=held_out_N,
        error_N=error_N,
    )


def passes_gate(
    fit_mean: FitMean, x_NF: Floats, y_N: Floats, older_N: NDArray[np.bool_], before_ms_O: Floats
) -> GateDecision:
    """Whether fits to all N networks predict no worse than fits to the older ones alone, which then took
    ``before_ms_O``: each network is predicted by fits that do not know it. The mean relative error over all networks
    must not be higher by more than the standard error of the difference; nor that over the older ones by more than
    ``MOST_LOST``, so that odd measurements of a few new ones do not spoil what was known. Every fold has its share of
    the older ones, of which there may be a handful.
    """
    n, new_N, old_N = len(y_N), np.empty(len(y_N)), np.empty(len(y_N))
    then_N = y_N.copy()
    then_N[older_N] = before_ms_O
    order = np.random.default_rng(0).permutation(n)
    order = order[np.argsort(~older_N[order], kind="stable")]
    for fold in (order[i :: min(FOLDS, n)] for i in range(min(FOLDS, n))):
        fitted_rows = np.setdiff1d(order, fold)
        older = fitted_rows[older_N[fitted_rows]]
        new_N[fold] = fit_mean(x_NF[fitted_rows], y_N[fitted_rows], 0, None).predict(x_NF[fold]).mean_ms
        old_N[fold] = fit_mean(x_NF[older], then_N[older], 0, None).predict(x_NF[fold]).mean_ms
    new_N, old_N = np.abs(new_N / y_N - 1.0), np.abs(old_N / y_N - 1.0)
    gap_N = new_N - old_N
    if gap_N.mean() > gap_N.std(ddof=1) / np.sqrt(n):
        return GateDecision(False, f"cross-validated error: {_figures(new_N, old_N)}")
    if gap_N[older_N].mean() > MOST_LOST:
        figures = _figures(new_N[older_N], old_N[older_N])
        return GateDecision(False, f"cross-validated error over the networks known before: {figures}")
    return GateDecision(True, f"cross-validated error: {_figures(new_N, old_N)}")


def _figures(new_N: Floats, old_N: Floats) -> str:
    return f"{100 * new_N.mean():.1f} % with what was fed back, {100 * old_N.mean():.1f} % without"


def _fitter_of(predictor: LatencyPredictor) -> NetworkFitter:
    """What is fitted after a predictor: its family, with its own table of layers; any where it has lost its kin."""
    if isinstance(predictor, LayerLutModel):
        return predictor
    return AutoPredictor if isinstance(predictor, Transfer) else registry.load_family(predictor.family)


def _mean_fitter(
    predictor: LatencyPredictor, space: SearchSpace, genes_NG: Genes, knowledge: Knowledge
) -> tuple[FitMean, Floats]:
    """How the mean alone is fitted, or the whole where a family has no such fit; and what it reads of the networks."""
    predictor_in_use = predictor.chosen if isinstance(predictor, AutoPredictor) else predictor
    if isinstance(predictor_in_use, CalibratedPredictor):
        return predictor_in_use.refit_mean, predictor_in_use.inputs(space, genes_NG)
    if knowledge and isinstance(predictor_in_use, Transfer):
        layout, x_NF = FeatureLayout.of(space, knowledge.layers), network_features(space, genes_NG, knowledge.layers)
        relatives = Relatives.learn(knowledge.tables, layout.additive_C) if knowledge.tables else None
        return lambda x, y, seed, w: learn(x, y, relatives, w, layout).of_columns, x_NF
    fitter = _fitter_of(predictor)

    def fit_whole(rows_N1: Floats, y_N: Floats, seed: int, weight_N: Floats | None) -> Regressor:
        rows = rows_N1[:, 0].astype(np.int64)
        return _OfRows(fit_networks(fitter, space, genes_NG[rows], y_N), space, genes_NG)

    return fit_whole, np.arange(len(genes_NG), dtype=np.float64)[:, None]


@dataclass(frozen=True)
class _OfRows:
    """Regressor networks that are given by their row among ``genes_NG``."""

    predictor: LatencyPredictor
    space: SearchSpace
    genes_NG: Genes

    def predict(self, rows_N1: Floats) -> Latency:
        return predict_latency(self.predictor, self.space, self.genes_NG[rows_N1[:, 0].astype(np.int64)])


def _with_some_held_out(measurements: DeviceMeasurements) -> DeviceMeasurements:
    return replace(measurements, held_out_N=draw_held_out(0, len(measurements.genes_NG)))
