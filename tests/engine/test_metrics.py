"""Metrics against scikit-learn and SciPy, and GLUE's average against the averages that a table prints."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sklearn

from sharpkit.data.glue import TASKS
from sharpkit.engine.metrics import METRICS, glue_average
from sharpkit.errors import UsageError

PEERS = {
    "acc": sklearn.accuracy_score,
    "f1": sklearn.f1_score,
    "mcc": sklearn.matthews_corrcoef,
    "pearson": lambda y, x: stats.pearsonr(x, y).statistic,
    "spearman": lambda y, x: stats.spearmanr(x, y).statistic,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_other_libraries(name, seed):
    rng = np.random.default_rng(seed)
    if name in ("pearson", "spearman"):
        y = rng.integers(0, 12, 200) / 4  # with ties
        x = (y + rng.normal(size=200)).astype(np.float32).round(1)
    else:
        y = (rng.random(200) < 0.3).astype(int)
        x = np.where(rng.random(200) < 0.25, 1 - y, y)
    found = METRICS[name].function(torch.tensor(x), torch.tensor(y))
    assert found == pytest.approx(PEERS[name](y, x), abs=1e-12)


def test_predictions_that_are_all_the_same():
    ones, mixed = torch.ones(4, dtype=torch.int64), torch.tensor([0, 1, 1, 0])
    assert METRICS["mcc"].function(ones, mixed) == sklearn.matthews_corrcoef(mixed, ones) == 0
    assert METRICS["f1"].function(0 * ones, 0 * ones) == 0
    assert METRICS["pearson"].function(ones.float(), mixed.float()) == 0
    with pytest.raises(UsageError, match="two classes"):
        METRICS["mcc"].function(ones, 2 * ones)


ROWS = {
    "AdamW": (56.6, 91.6, (85.6, 89.9), (85.4, 85.3), (90.2, 86.8), 82.6, 89.8, 62.4, 26.4),
    "SAM": (58.8, 92.3, (86.5, 90.5), (85.0, 85.0), (90.6, 87.5), 83.9, 90.4, 60.6, 41.2),
    "SAMPa-0": (58.9, 92.5, (86.4, 90.4), (85.0, 85.0), (90.6, 87.6), 83.8, 90.4, 60.4, 43.2),
    "SAMPa-0.1": (58.9, 92.5, (86.8, 90.7), (85.2, 85.1), (90.7, 87.7), 84.0, 90.5, 61.3, 51.6),
}
"""Table 6 of Xie, Pethick, Cevher (2024), in the order of its columns."""


@pytest.mark.parametrize(
    ("row", "exact", "printed"),
    [("AdamW", 74.56, 74.6), ("SAM", 76.64, 76.6), ("SAMPa-0", 76.86, 76.9), ("SAMPa-0.1", 77.99, 78.0)],
)
def test_the_average_is_that_of_the_table(row, exact, printed):
    names = [task.folder for task in TASKS.values()]
    assert names == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
    average = glue_average(dict(zip(names, ROWS[row], strict=True)))
    assert (round(average, 2), round(average, 1)) == (exact, printed)


def test_an_average_of_other_tasks_is_refused():
    whole = dict(zip(TASKS, ROWS["SAM"], strict=True))
    both = {**whole, "mnli": (80.0, 82.0)}
    assert glue_average(both) == pytest.approx(glue_average({**whole, "mnli": 81.0}), abs=1e-12)
    with pytest.raises(UsageError, match="cola has 0 scores, GLUE has 1"):
        glue_average({name: value for name, value in whole.items() if name != "cola"})
    with pytest.raises(UsageError, match=r"mrpc has 3 scores, GLUE has 2.*accuracy, F1, or their mean"):
        glue_average({**whole, "mrpc": (1, 2, 3)})
    with pytest.raises(UsageError, match="ax is no task"):
        glue_average({**whole, "ax": 1.0})
