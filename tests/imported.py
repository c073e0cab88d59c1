"""What imports of other tools' files say."""

from pathlib import Path
from typing import Any

import sim


def mattering(path: Path) -> list[dict[str, Any]]:
    """Rows of what is not taken and changes the run."""
    return [row for row in sim.import_job(path).aside if row["matters"]]
