"""All timings in one table: `python -m bench [--engines] [--configurations 1000] [--repeat 7]`."""

from __future__ import annotations

import argparse
import sys

from bench.process import processes
from bench.table import Row, header, markdown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--configurations", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=7, help="runs of each process")
    parser.add_argument("--engines", action="store_true", help="also bench.engine, with SimGrid")
    options = parser.parse_args()
    out = sys.stdout.write
    out(header() + "\n\n")
    rows: list[Row] = []
    rows += processes(options.repeat)  # first: a child's peak memory is at least its parent's
    from bench import engine
    from bench.inside import inside

    rows += inside(options.configurations)
    out(markdown(rows) + "\n")
    if options.engines:
        out("\n")
        sys.argv = ["bench.engine", "--simgrid", "--ranks", "8,16,64"]
        engine.main()


if __name__ == "__main__":
    main()
