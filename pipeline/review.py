"""What out-of-fold predictions say of the rows and of themselves, as data; pictures of it are drawn elsewhere.

targets: (N,) class indices; multilabel (N, C) of 0 and 1; regression (N,) numbers. outputs: (N, C) probabilities;
regression (N, 1). kind: of target, as in `competition.target`. What applies to which:

    most_confident_mistakes   all; of a regression the largest residuals
    suspected_label_errors    class, ordinal, multilabel
    calibration               class, ordinal, multilabel
    per_class_table           class, ordinal, multilabel

The last three raise ValueError for a regression. In multilabel each (row, label) is a decision of its own.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.metrics import decisions

N_BINS = 15  # as in Guo et al. 2017, so that the error can be compared with published ones


def most_confident_mistakes(targets: np.ndarray, outputs: np.ndarray, n: int, kind: str = "class") -> pd.DataFrame:
    """At most n lines, the most confident first: `row`, `given`, `said`, `confidence`; multilabel `label`, too.

    given, said: class indices; multilabel 0 or 1, of the class in `label`. confidence: the probability of what was
    said. regression: given and said are numbers, and `confidence` is replaced by `error`, |said - given|.
    """
    if kind == "regression":
        said = decisions(outputs, kind).astype(float)
        table = pd.DataFrame({"row": np.arange(len(said)), "given": targets, "said": said})
        table["error"] = (table["said"] - table["given"]).abs()
        return table.sort_values("error", ascending=False, kind="stable").head(n).reset_index(drop=True)
    given, said, confidence = _decided(targets, outputs, kind)
    wrong = np.nonzero(said != given)  # an index array an axis
    surest = np.argsort(-confidence[wrong], kind="stable")[:n]
    wrong = tuple(axis[surest] for axis in wrong)
    places = dict(zip(("row", "label"), wrong, strict=False))
    return pd.DataFrame({**places, "given": given[wrong], "said": said[wrong], "confidence": confidence[wrong]})


def suspected_label_errors(targets: np.ndarray, outputs: np.ndarray, kind: str = "class") -> pd.DataFrame:
    """`row`, `given`, `suggested`, `self_confidence`, the most suspect first; multilabel `label`, too.

    Confident learning (Northcutt, Jiang & Chuang 2021, arXiv 1911.00068) as cleanlab has it: a row is suspect where the
    model is as sure of another class as it is, on average, of that class's own rows. self_confidence: the probability
    of the given label. Only probabilities of models that did not see the row make sense here. Ordered classes are taken
    as unordered ones; multilabel asks for each label by itself, and given and suggested are 0 or 1.
    """
    _no_regression(kind)
    if kind != "multilabel":
        rows = _issues(targets, outputs)
        suggested = outputs[rows].argmax(axis=1)
        return _suspects(rows, targets[rows], suggested, outputs[rows, targets[rows]])
    tables = []
    for label in range(outputs.shape[1]):
        of_label = targets[:, label].astype(int)
        both = np.column_stack([1 - outputs[:, label], outputs[:, label]])
        rows = _issues(of_label, both)
        given = of_label[rows]
        table = _suspects(rows, given, 1 - given, both[rows, given])
        table.insert(1, "label", label)
        tables.append(table)
    return pd.concat(tables, ignore_index=True).sort_values("self_confidence", kind="stable", ignore_index=True)


def calibration(targets: np.ndarray, outputs: np.ndarray, kind: str = "class") -> tuple[pd.DataFrame, float]:
    """(a line a bin: `low`, `high`, `n`, `confidence`, `accuracy`; the expected calibration error)

    Guo et al. 2017, arXiv 1706.04599, equation 3: decisions are put into `N_BINS` bins of equal width, (low, high], by
    the confidence in what was decided; the error is the mean over all decisions of their bin's |accuracy - confidence|.
    Equal widths, and not equal numbers, because that is the definition by which others report it; how few decisions a
    bin has stands in `n`. confidence, accuracy: means in the bin, NaN where it is empty.
    """
    given, said, confidence = (values.ravel() for values in _decided(targets, outputs, kind))
    right = (said == given).astype(float)
    edges = np.linspace(0, 1, N_BINS + 1)
    of_bin = np.searchsorted(edges[1:-1], confidence, side="left")
    n = np.bincount(of_bin, minlength=N_BINS)
    sums = [np.bincount(of_bin, weights=values, minlength=N_BINS) for values in (confidence, right)]
    means = [np.divide(total, n, out=np.full(N_BINS, np.nan), where=n > 0) for total in sums]
    error = float(np.abs(sums[0] - sums[1]).sum() / max(len(right), 1))
    bins = {"low": edges[:-1], "high": edges[1:], "n": n, "confidence": means[0], "accuracy": means[1]}
    return pd.DataFrame(bins), error


def per_class_table(
    targets: np.ndarray, outputs: np.ndarray, classes: Sequence[str], kind: str = "class"
) -> pd.DataFrame:
    """`class`, `precision`, `recall`, `f1`, `support`, in the order of `classes`; support counts true rows.

    NaN where there is nothing to divide by: the precision of a class that was never said, the recall of one that no row
    has, F1 where both hold. scikit-learn computes it.
    """
    from sklearn.metrics import precision_recall_fscore_support

    _no_regression(kind)
    answers = decisions(outputs, kind)
    labels = np.arange(len(classes))
    each = precision_recall_fscore_support(targets, answers, labels=labels, average=None, zero_division=np.nan)
    names = ("precision", "recall", "f1", "support")
    table = pd.DataFrame({"class": list(classes), **dict(zip(names, each, strict=True))})
    return table.astype({"support": int})


def in_words(table: pd.DataFrame, column: str, classes: Sequence[str], kind: str = "class") -> list[str]:
    """A column of the first two functions' tables as texts to show: a class's name, `no NAME`, or a number."""
    values = table[column]
    if kind == "regression":
        return [f"{value:.4g}" for value in values]
    if kind == "multilabel":
        return [f"{'' if v else 'no '}{classes[label]}" for v, label in zip(values, table["label"], strict=True)]
    return [classes[value] for value in values]


def _decided(targets: np.ndarray, outputs: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(given, said, confidence in what was said), (N,) each; multilabel (N, C)."""
    _no_regression(kind)
    said = decisions(outputs, kind)
    outputs = outputs.astype(np.float64)
    if kind == "multilabel":
        return targets.astype(int), said, np.where(said == 1, outputs, 1 - outputs)
    return targets, said, outputs[np.arange(len(targets)), said]


def _issues(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Row numbers that cleanlab suspects, the least self-confident first. labels: (N,), probs: (N, C)."""
    if len(np.unique(labels)) < 2:  # of one class alone nothing can be learnt, and cleanlab refuses it
        return np.empty(0, int)
    from cleanlab.filter import find_label_issues  # takes a second, and most stages do not need it

    # cleanlab's default, prune_by_noise_rate, finds more and is wrong more often: with 2 % of the digits' labels moved,
    # 76 % of a random forest's suspects were right, against 100 %. It also leaves out classes of few rows, and warns.
    rank, by = "self_confidence", "confident_learning"
    found = find_label_issues(
        labels.astype(int), probs.astype(np.float64), return_indices_ranked_by=rank, filter_by=by, n_jobs=1
    )
    return np.asarray(found, dtype=int)


def _suspects(rows: np.ndarray, given: np.ndarray, suggested: np.ndarray, sure: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"row": rows, "given": given, "suggested": suggested, "self_confidence": sure})


def _no_regression(kind: str) -> None:
    if kind == "regression":
        raise ValueError("only targets of classes or labels have confidences; for numbers look at the residuals")
