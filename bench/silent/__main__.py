"""What is neither refused nor warned of and moves nothing.

python -m bench.silent              # all 8 strategies, how each key ends and what is silent
python -m bench.silent fsdp2 zero3  # of some
python -m bench.silent ways         # keys beside other axes, methods, offload and replicas
python -m bench.silent tensor qlora # of some
python -m bench.silent machines     # keys of the topology, on one node and on two
python -m bench.silent terms        # of offers, owners, failures, calibrations, checkpoints, phases
python -m bench.silent files        # of post-training, files of jobs, sized phases and prices
python -m bench.silent options      # each option of each verb
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from bench.silent.files import of_files
from bench.silent.keys import TRAINED, Ended, ended, of_machines
from bench.silent.options import of_options
from bench.silent.terms import of_terms
from sim.inputs.registry import STRATEGIES

#: other subjects than strategies and ways to train
SUBJECTS: dict[str, Callable[[], Iterator[Ended]]] = {
    "machines": of_machines, "terms": of_terms, "files": of_files, "options": of_options,
    "ways": lambda: ended(TRAINED),
}  # fmt: skip


def main() -> None:
    """Print what is silent, and how many end how."""
    began, counts = time.process_time(), Counter[str]()
    asked = sys.argv[1:]
    subject = SUBJECTS.get(asked[0]) if len(asked) == 1 else None
    for one in subject() if subject else ended(asked or list(STRATEGIES)):
        counts[one.how] += 1
        if one.how == "silent":
            print(f"{one.strategy}: {one.key} = {json.dumps(one.value)} says and moves nothing")
    print(", ".join(f"{n} {how}" for how, n in counts.most_common()), end="; ")
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
