"""Pages that stand alone: tables and plots of a comparison or an estimate, in one file without scripts or anything loaded.

The plots are SVG inside the page, drawn here: its colours are the page's, so the same file is right on a dark screen, on a light
one and on paper, and it is some 20 kB. A plotting library would bring scripts of megabytes (plotly, vega), or colours that are
fixed when the file is written (matplotlib).
"""
