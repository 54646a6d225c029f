"""Peers of the explorers on the table of NAS-Bench-201: Bayesian optimisation by Optuna, and by BoTorch where that is
installed. Both model latency as they model accuracy, since neither takes a cost that is known beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import optuna

from benchmarks._accuracy_table import AccuracyTable, Search, connected
from nas.core.arch import Floats, Genes

_FIRST = 10  # random cells before a model is asked
_EDGES, _OPERATIONS = 6, 5


def by_optuna(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """Optuna's ``GPSampler``: (log) expected improvement, and with a cost expected hypervolume improvement. A cell that
    it proposes again, or that has no path to its output, is replaced by a random one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        f"edge{e}": optuna.distributions.CategoricalDistribution(range(_OPERATIONS)) for e in range(_EDGES)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=_FIRST)
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * (1 if cost_K is None else 2))
        spare = iter(connected(table, np.random.default_rng(seed), 2 * queries))
        genes: list[Genes] = []
        keys: set[int] = set()
        while len(genes) < queries:
            proposal = study.ask(distributions)
            genes_G = np.array([proposal.params[name] for name in distributions])
            key = int(table.keys(genes_G))
            if key in keys or not table.connected_K[key] or len(genes) < _FIRST:
                genes_G = next(g for g in spare if int(table.keys(g)) not in keys)
                key = int(table.keys(genes_G))
                study.tell(proposal, state=optuna.trial.TrialState.FAIL)
                params = {name: int(gene) for name, gene in zip(distributions, genes_G, strict=True)}
                values = _values(table, key, cost_K)
                study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, values=values))
            else:
                study.tell(proposal, _values(table, key, cost_K))
            keys.add(key)
            genes.append(genes_G)
    return np.array(genes)


def _values(table: AccuracyTable, key: int, cost_K: Floats | None) -> Sequence[float]:
    loss = -float(table.validation_K[key])
    return [loss] if cost_K is None else [loss, float(cost_K[key])]


PEERS: dict[str, Search] = {"optuna": by_optuna}
if find_spec("botorch") is not None:
    from benchmarks._botorch import by_botorch

    PEERS["botorch"] = by_botorch
