"""Whether mirrored images can be told from the images: then left and right matter, and views must not be flipped.

Handwriting, signs and text look different in a mirror; photographs of things do not, to a classifier that sees only a
few hundred of them (visual chirality, https://arxiv.org/abs/2006.09512). No label is asked, and no network: those that
were trained on flipped photographs hardly see the difference.
"""

import numpy as np

FEWEST_IMAGES = 100  # below, chance alone passes the limit too often
LIMIT = 0.7  # of pairs; measured: .80 and more for digits, .63 and less for photographs (benchmarks/orientation.py)
NUM_FOLDS = 5
NUM_DIMS = 64


def mirror_accuracy(pictures: np.ndarray) -> float:
    """Return the share of images that are picked out of the pair with their mirror image by a classifier of others.

    pictures is [N, S, S], gray. A support vector machine on principal components is trained on the images and mirror
    images of four of five folds; in each pair of the fifth, the one with the larger value is picked.
    """
    from sklearn.decomposition import PCA  # slow to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    images = pictures.reshape(len(pictures), -1).astype(np.float64)
    mirrored = pictures[:, :, ::-1].reshape(len(pictures), -1).astype(np.float64)
    fold = np.arange(len(images)) % NUM_FOLDS
    right = 0.0
    for number in range(NUM_FOLDS):
        train, held = fold != number, fold == number
        points = np.concatenate([images[train], mirrored[train]])
        is_image = np.repeat([1, 0], train.sum())
        model = make_pipeline(StandardScaler(), PCA(min(NUM_DIMS, train.sum()), random_state=0), SVC())
        model.fit(points, is_image)
        difference = model.decision_function(images[held]) - model.decision_function(mirrored[held])
        right += (difference > 0).sum() + (difference == 0).sum() / 2
    return float(right / len(images))


def has_sides(pictures: np.ndarray) -> bool:
    """Whether left and right matter in pictures [N, S, S]; False where there are too few to say."""
    return len(pictures) >= FEWEST_IMAGES and mirror_accuracy(pictures) >= LIMIT
