"""The charts as plain data (Apache ECharts options), one module for each chart, computed from schemas of the API.

Every series holds values of one kind of evidence and names it in its ``id``: ``search.predicted.candidates``,
``search.measured.verified``. Series differ by symbol and line style as well as by colour. Colours are variables of the
style sheet, so a chart follows the light or dark theme without being drawn again.
"""
