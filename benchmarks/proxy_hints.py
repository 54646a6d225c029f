"""What zero-cost proxies tell the accuracy predictor of the Bayesian explorer, on the table of NAS-Bench-201.

A Gaussian process is fitted to the validation accuracies (CIFAR-10, 200 epochs) of a few random cells and ranks all
others: by what the space says of their structure, or by their genes and costs, as where a space says nothing of it; and
by either with hints from 128 other random cells that were scored by proxies. Those are scored with few channels and
cells, on random images: no proxy here looks at accuracy or at data.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Floats, Genes, as_archs
from nas.core.metrics import spearman
from nas.core.ports import History, ImageShape
from nas.explorers.bayesian import ObjectiveModels
from nas.proxies import score
from nas.stages.proxies import ProxyAwareSpace, Scores
from search_spaces.nas_bench_201.cell import OPERATIONS
from search_spaces.nas_bench_201.space import NasBench201, SpaceParams

PROXIES = ("synflow", "jacob_cov", "naswot")
SCORED, EVALUATED = 128, (15, 30, 60)


class Plain:
    """A space that says nothing of its networks' structure."""

    def __init__(self, space: NasBench201) -> None:
        self._space = space

    def __getattr__(self, name: str) -> Any:
        if name == "accuracy_features" or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._space, name)


def ranks(space: Any, genes_NG: Genes, accuracy_N: Floats, rows: Any) -> float:
    """Rank correlation over all cells after those of ``rows`` were evaluated."""
    history = History(genes_NG[rows], -accuracy_N[rows, None], np.zeros(len(rows)))
    models = ObjectiveModels.fit(space, history, None)
    return spearman(-models.processes[0].posterior(models.encode(genes_NG))[0], accuracy_N)


def bench(options: Options) -> dict[str, Any]:
    """Means over seeds, each with other evaluated cells."""
    torch.set_num_threads(1)
    with np.load(shared_file(options, "data", "nb201.npz")) as table:
        columns = np.array([OPERATIONS.index(str(name)) for name in table["op_names"]])
        every_NG, every_N = columns[table["ops"]].astype(np.int64), table["val_acc_200ep_cifar10"].astype(np.float64)
    space = NasBench201(SpaceParams(channels=8, cells=2), ImageShape(3, 16, 16, 10))
    genes_NG, first = np.unique(space.canonical(every_NG), axis=0, return_index=True)
    accuracy_N = every_N[first]
    scored = np.random.default_rng(0).permutation(len(genes_NG))[:SCORED]
    net, y = space.supernet(0), torch.arange(16) % 10
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    start_s = time.process_time()
    archs = as_archs(space.id, genes_NG[scored])
    scores = Scores(
        PROXIES, genes_NG[scored], np.array([[score(n, net.subnet(a), x, y) for n in PROXIES] for a in archs])
    )
    seconds = time.process_time() - start_s
    standard_NP = scores.standard(scores.scores_NP)
    by_proxy = {name: spearman(standard_NP[:, p], accuracy_N[scored]) for p, name in enumerate(PROXIES)}
    for cost in ("params", "macs"):
        by_proxy[cost] = spearman(space.costs(genes_NG[scored])[cost], accuracy_N[scored])
    out: dict[str, Any] = {}
    with threadpool_limits(limits=1):
        for label, base in (("structure", space), ("genes_and_costs", Plain(space))):
            hinted = ProxyAwareSpace(base, scores)
            for n in EVALUATED:
                draws = [np.random.default_rng((seed, n)).permutation(len(genes_NG))[:n] for seed in options.seeds]
                out.setdefault(label, {})[str(n)] = {
                    label_hints: float(np.mean([ranks(s, genes_NG, accuracy_N, rows) for rows in draws]))
                    for label_hints, s in (("without", base), ("with_hints", hinted))
                }
    return {"spearman": out, "spearman_alone": by_proxy, "scoring_s": seconds, "seeds": len(options.seeds)}


if __name__ == "__main__":
    main("proxy_hints", bench, __doc__.split("\n")[0], ("numpy", "torch"), seeds=20)
