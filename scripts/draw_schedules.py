"""Draw the seven pipeline schedules from the simulator's own steps.

python scripts/draw_schedules.py [docs/schedules]
"""

from __future__ import annotations

import sys
from pathlib import Path

import sim
from sim.pipeline.schedules import SCHEDULES
from sim.report.stages import picture
from sim.step.stages import StageChart

HERE = Path(__file__).parents[1] / "docs" / "schedules"
MACHINE, JOB = "dgx-h100", "llama3-8b-sft"
SETS = (
    "nodes=1", "micro_batch=1", "gradient_accumulation=8", "activation_checkpointing=none",
    "parallelism.pipeline_parallel=4",
)  # fmt: skip


def chart(name: str) -> StageChart:
    """The job under one schedule."""
    return sim.stages(MACHINE, JOB, overrides=[*SETS, f"parallelism.pipeline_schedule={name}"])


def main(folder: Path) -> None:
    """Write a picture a schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SCHEDULES:
        (folder / f"{name}.svg").write_text(picture(chart(name)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
