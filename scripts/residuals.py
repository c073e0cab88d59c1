"""Write `sim/data/measured/residuals.json`: cross-validated residuals of the complete rows.

    python scripts/residuals.py

Run it after every change of the model or its constants that moves `scaling-sim validate`.
"""

import json
import math
from pathlib import Path

from sim.calibration.cross_validation import cross_validate
from sim.calibration.validate_memory import validate_memory
from sim.calibration.validate_training import value_of
from sim.result.bands import Residual, job_of

OUT = Path(__file__).parents[1] / "sim" / "data" / "measured" / "residuals.json"


def main() -> None:
    """Predict all rows, twice cross-validated, and write one line a row."""
    lines = []
    for by_model, by_source in zip(
        cross_validate("models"), cross_validate("sources"), strict=True
    ):
        row = by_model.point.row
        job = job_of(row.topology, row.workload)
        residual = Residual(
            row.id, f"{row.group} {value_of(row, 'model')}",
            *(getattr(job, name) for name in Residual._fields[2:8]),
            round(math.log1p(by_model.error), 4), round(math.log1p(by_source.error), 4),
        )  # fmt: skip
        lines.append(json.dumps(residual))
    memory = [
        round(math.log1p(p.error), 4) for p in validate_memory().peaks if p.row.status == "complete"
    ]
    head = {"columns": Residual._fields, "memory": memory}
    OUT.write_text(json.dumps(head)[:-1] + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
