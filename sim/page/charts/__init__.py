"""Charts as SVG of our own: a file a kind, each drawn once for a wide screen and once for a phone.

A `Chart` is what is drawn with the numbers behind it, which the page offers as CSV.
"""
