"""A study: a question taken apart into claims, each measured by simulated cases.

The study is a YAML file: cases (machine, job, overrides), and claims, whose lines are a measure of
one case or the ratio of two, held against the range that the claim states and beside published
measurements; who says otherwise; and what it comes to for each kind of reader. All its figures are
recomputed from the file by one command.
"""
