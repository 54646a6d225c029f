"""Python imports this at the start of every process of a service under test; see ``benchmarks.kill_points``."""

import os

if "HWNAS_KILL_POINT" in os.environ:
    from benchmarks import kill_points

    kill_points.install()
