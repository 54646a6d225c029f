"""Models of users: read into a graph without running any of their code, analysed, narrowed, and executed.

``reading`` turns a file into a graph (``graph.py``) and its weights; ``channels.py`` finds which channels must be
removed together, ``blocks.py`` which residual blocks can be skipped, ``intake.py`` sums both up in a report.
``narrowing.py`` cuts graph and weights; ``execution.py``, the only file that needs torch, runs a graph.
"""
