import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from clustering.classifier import MOST_COMPARED, fit_classifier


def groups(num, num_classes, seed=0):
    generator = np.random.default_rng(seed)
    targets = np.arange(num) % num_classes
    centers = 3 * generator.normal(size=(num_classes, 6))
    features = 5 + np.array([1, 10, 100, 1, 1, 1]) * (centers[targets] + generator.normal(size=(num, 6)))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(targets)


def test_the_head_gives_the_probabilities_of_scikit_learn():
    for num_classes in (2, 4):
        features, targets = groups(80, num_classes)
        found = fit_classifier(features, targets, num_classes)
        x = StandardScaler().fit(features.numpy())
        model = LogisticRegression(C=found.strength, max_iter=1000).fit(x.transform(features.numpy()), targets)
        expected = model.predict_proba(x.transform(features.numpy()))
        got = torch.softmax(found.head(features), dim=1).detach().numpy()
        assert np.allclose(got, expected, atol=1e-3)
        assert found.accuracy > 0.9


def test_labels_without_sense_are_not_predicted():
    features, _ = groups(200, 2)
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, 4, 200))
    assert fit_classifier(features, targets, 4).accuracy < 0.45


def test_classes_of_one_image_are_learned_but_not_cross_validated():
    features = torch.tensor([[0.0, 0], [0, 1], [9, 9], [0, -9]])
    found = fit_classifier(features, torch.tensor([0, 0, 1, 2]), 3)
    assert found.accuracy is None
    found = fit_classifier(features.repeat(2, 1)[:7], torch.tensor([0, 0, 1, 2, 0, 0, 1]), 3)
    assert found.accuracy == 1.0 and found.head(features).argmax(1).tolist() == [0, 0, 1, 2]


def test_what_is_said_of_an_image_left_out_does_not_depend_on_its_label():
    features, targets = groups(60, 3)
    found = fit_classifier(features, targets, 3)
    assert torch.allclose(found.left_out.sum(1), torch.ones(60), atol=1e-4)
    assert (found.left_out.argmax(1) == targets).float().mean().item() == pytest.approx(found.accuracy)
    wrong = targets.clone()
    wrong[0] = (targets[0] + 1) % 3
    doubted = fit_classifier(features, wrong, 3).left_out
    assert doubted[0].argmax() == targets[0] and doubted[0, wrong[0]] == doubted[:, :].gather(1, wrong[:, None]).min()
    alone = fit_classifier(torch.cat([features, features[:1]]), torch.cat([targets, torch.tensor([3])]), 4)
    assert alone.left_out[60].argmax() == targets[0] and alone.left_out[:, 3].max() == 0  # of a class of its own


def test_a_rare_class_is_known_where_not_all_images_are_compared():
    features, targets = groups(MOST_COMPARED + 2000, 3)
    rare = torch.tensor([[400.0, 400, 4000, 40, 40, 40]]) + torch.arange(3.0)[:, None]
    for seed in range(3):
        found = fit_classifier(torch.cat([features, rare]), torch.cat([targets, torch.full((3,), 3)]), 4, seed)
        assert (found.left_out[-3:].argmax(1) == 3).all() and found.left_out[-3:, 3].min() > 0.5


def test_images_beyond_those_that_are_compared_are_left_out_too():
    features, targets = groups(MOST_COMPARED + 40, 3)
    found = fit_classifier(features, targets, 3)
    assert torch.allclose(found.left_out.sum(1), torch.ones(MOST_COMPARED + 40), atol=1e-4)
