"""A classifier of named classes on given features: logistic regression, as a head that the model files know."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from models.heads import LinearHead
from system.runtime import one_thread

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of scikit-learn, rising until cross-validation gets worse
NUM_FOLDS = 5
MOST_COMPARED = 5000  # images that C is chosen on


@dataclass(frozen=True)
class Classifier:
    """A head from features `[B, D]` to logits `[B, C]`, and how it was chosen.

    `accuracy` is the share of labels that were predicted while they were left out; None where fewer than two classes
    have two images, so that none can be left out. `left_out` is what was predicted of each image then, probabilities
    float32 `[N, C]`: 0 for a class of which no other image is known.
    """

    head: LinearHead
    accuracy: float | None
    strength: float
    left_out: Tensor | None


def fit_classifier(features: Tensor, targets: Tensor, num_classes: int, seed: int = 0) -> Classifier:
    """Fit logistic regression on features `[N, D]` and classes int64 `[N]`, each of 0..C-1 at least once, C >= 2.

    Features are standardized, which the head's weights contain. Its strength is chosen by cross-validated likelihood,
    on 5,000 images, and at least five of each class; classes with a single image are left out of that.
    """
    x, y = features.float().cpu().numpy(), targets.cpu().numpy()
    with one_thread():
        strength, accuracy, left_out = _choose(x, y, num_classes, seed)
        scaler, regression = (step for _, step in _pipeline(strength).fit(x, y).steps)
    weight, bias = regression.coef_, regression.intercept_
    if num_classes == 2:  # scikit-learn has one row for two classes: the difference of their logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    head = LinearHead([x.shape[1]], num_classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean_))
    return Classifier(head, accuracy, strength, None if left_out is None else torch.from_numpy(left_out))


def _pipeline(strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def _choose(x: np.ndarray, y: np.ndarray, num_classes: int, seed: int) -> tuple[float, float | None, np.ndarray | None]:
    """The strength that gives left-out labels the highest probability, the share of them that it predicts, and all
    probabilities of images by classifiers that had not seen them.
    """
    rows = np.flatnonzero(np.bincount(y)[y] >= 2)
    if len(rows) > MOST_COMPARED:
        drawn = np.random.default_rng(seed).permutation(rows)
        by_class = np.argsort(y[drawn], kind="stable")
        sizes = np.bincount(y[drawn])
        rank = np.empty(len(drawn), dtype=np.int64)  # of an image among those of its class, as they are drawn
        rank[by_class] = np.arange(len(drawn)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = np.sort(drawn[(np.arange(len(drawn)) < MOST_COMPARED) | (rank < NUM_FOLDS)])  # rare classes, too
    counts = np.bincount(y[rows])
    if (counts > 0).sum() < 2:
        return 1e-2, None, None
    folds = StratifiedKFold(int(min(NUM_FOLDS, counts.max())), shuffle=True, random_state=seed)
    classes, columns = np.unique(y[rows], return_inverse=True)
    found: list[tuple[float, float, float, np.ndarray]] = []
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)
            p = cross_val_predict(_pipeline(strength), x[rows], columns, cv=folds, method="predict_proba")
        loss = -np.log(np.maximum(p[np.arange(len(rows)), columns], 1e-12)).mean()
        found.append((float(loss), strength, float((p.argmax(1) == columns).mean()), p))
        if len(found) > 1 and loss > found[-2][0]:
            break  # larger ones fit the labels ever closer, and take ever longer
    _, strength, accuracy, p = min(found, key=lambda one: one[0])
    left_out = np.zeros((len(y), num_classes), dtype=np.float32)
    left_out[np.ix_(rows, classes)] = p
    others = np.setdiff1d(np.arange(len(y)), rows)
    if len(others):
        left_out[np.ix_(others, classes)] = _pipeline(strength).fit(x[rows], y[rows]).predict_proba(x[others])
    return strength, accuracy, left_out
