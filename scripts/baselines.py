"""Write `sim/data/measured/boosted.json`: what gradient boosting says of the fine-tuning runs.

    python scripts/baselines.py            # needs scikit-learn (the "dev" extra); half a minute

scikit-learn's GradientBoostingRegressor on the features of `sim.calibration.baselines`, of the
logarithm of the share of the roofline that a run reached; each row is predicted by a regressor that
has not seen its group. The same versions give the same file.
"""

import json
import math

import numpy as np
from sklearn import __version__
from sklearn.ensemble import GradientBoostingRegressor

from sim.calibration.baselines import BOOSTED, SPLITS, compared_rows, features, roof_s

SETTINGS = {
    "n_estimators": 400, "max_depth": 4, "learning_rate": 0.05, "subsample": 0.7,
    "min_samples_leaf": 3, "random_state": 0,
}  # fmt: skip


def errors(split: str) -> dict[str, float]:
    """Log of predicted over measured speed of every row."""
    rows = compared_rows()
    groups = np.array([SPLITS[split](i, row) for i, row in enumerate(rows)])
    x = np.array([features(row) for row in rows])
    y = np.array([math.log(roof_s(row) * (row.tokens_per_s_per_gpu or 0.0)) for row in rows])
    said = np.empty(len(rows))
    for group in dict.fromkeys(groups.tolist()):
        out = groups == group
        said[out] = GradientBoostingRegressor(**SETTINGS).fit(x[~out], y[~out]).predict(x[out])
    return {row.id: round(float(e), 4) for row, e in zip(rows, said - y, strict=True)}


def main() -> None:
    """Train once a split and group, and write one line a split."""
    head = json.dumps({"made_by": f"scikit-learn {__version__}", "settings": SETTINGS})
    splits = ",\n".join(f"{json.dumps(name)}: {json.dumps(errors(name))}" for name in SPLITS)
    BOOSTED.write_text(f'{head[:-1]}, "splits": {{\n{splits}\n}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
