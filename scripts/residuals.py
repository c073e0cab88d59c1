"""Write `sim/data/measured/residuals.json`: cross-validated residuals of the complete rows.

    python scripts/residuals.py

Run it after every change of the model or its constants that moves `scaling-sim validate`.
"""

import json
import math
from pathlib import Path

from sim.calibration.cross_validation import cross_validate, cross_validate_finetune
from sim.calibration.validate_memory import validate_memory
from sim.calibration.validate_training import value_of
from sim.memory.band import kind_of
from sim.result.likeness import TRAITS_KEPT, JobTraits, Residual, job_of

OUT = Path(__file__).parents[1] / "sim" / "data" / "measured" / "residuals.json"


def main() -> None:
    """Predict all rows, twice cross-validated, and write one line a row."""
    training = zip(cross_validate("models"), cross_validate("sources"), strict=True)
    finetune = zip(
        cross_validate_finetune("models"), cross_validate_finetune("sources"), strict=True
    )
    lines = []
    for by_model, by_source in (*training, *finetune):
        row, b = by_model.point.row, by_model.point.breakdown
        job = job_of(row.topology, row.workload, b.parts, b.slowdown_s, by_model.point.retries_s)
        residual = Residual(
            row.id, row.group, value_of(row, "model"),
            job._replace(scale=round(job.scale, 4)),
            round(math.log1p(by_model.error), 4), round(math.log1p(by_source.error), 4),
        )  # fmt: skip
        lines.append(json.dumps(residual.written()))
    memory = [
        json.dumps([p.row.id, p.row.group, *kind_of(p.row.workload), round(math.log1p(p.error), 4)])
        for p in validate_memory().peaks
    ]
    columns = [*Residual._fields[:3], *JobTraits._fields[:TRAITS_KEPT], *Residual._fields[-2:]]
    text = (
        f'{{"columns": {json.dumps(columns)}, "memory": [\n' + ",\n".join(memory) + "\n],\n"
        '"rows": [\n' + ",\n".join(lines) + "\n]}\n"
    )
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
