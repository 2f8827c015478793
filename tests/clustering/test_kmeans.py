import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Lloyd
from sklearn.decomposition import PCA as Reference
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from clustering.candidate import predict
from clustering.kmeans import SAMPLE, find_temperature, fit_kmeans, linear_form, run_kmeans
from clustering.pca import PCA, fit_even_pca, fit_pca
from system.errors import UserError


def blobs(num_images=300, length=24, num_clusters=4, spread=0.5, seed=0):
    draws = torch.Generator().manual_seed(seed)
    centers = torch.randn(num_clusters, length, generator=draws)
    truth = torch.arange(num_images) % num_clusters
    lengths = 0.2 + 5 * torch.rand(num_images, 1, generator=draws)  # K-means on directions must not see these
    return (centers[truth] + spread * torch.randn(num_images, length, generator=draws)) * lengths, truth


@pytest.mark.parametrize("options", [{}, {"num_dims": 6}, {"num_dims": 6, "whiten": True}])
def test_the_head_has_the_clusters_of_kmeans_itself(options):
    x, _ = blobs(spread=1.5)  # not separated: the borders are where they could differ
    found = fit_kmeans(x, 5, **options)
    assert found.clusters.unique().tolist() == list(range(5))
    assert torch.equal(predict(found.head, x).argmax(1), found.clusters)
    unseen = blobs(spread=1.5, seed=3)[0]
    points = functional.normalize(unseen, dim=1)
    if options:
        points = found.pca.apply(points, options.get("whiten", False))
    own = fit_pca(functional.normalize(x, dim=1), 6).apply(functional.normalize(x, dim=1), options.get("whiten", False))
    centroids = run_kmeans(own if options else functional.normalize(x, dim=1), 5).centroids
    assert torch.equal(predict(found.head, unseen).argmax(1), torch.cdist(points, centroids).argmin(1))


def test_without_normalization_the_head_would_not_be_kmeans():
    x, _ = blobs(spread=1.5)
    found = fit_kmeans(x, 5)
    raw = (x @ found.head.weight.T + found.head.bias).argmax(1)
    assert not torch.equal(raw, found.clusters)


def test_the_linear_form_is_minus_the_squared_distance_but_for_a_constant():
    centroids, z = torch.randn(3, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    weight, bias = linear_form(centroids)
    expected, found = -torch.cdist(z, centroids).square(), z @ weight.double().T + bias.double()
    assert torch.allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-5)


def test_what_all_features_share_does_not_hide_their_clusters():
    x, truth = blobs(num_images=400, spread=0.1)
    x = torch.nn.functional.normalize(x, dim=1) + 300  # one minus the cosine of the nearest centroids is about 1e-5
    found = fit_kmeans(x, 4)
    assert len({(int(a), int(b)) for a, b in zip(found.clusters, truth, strict=True)}) == 4
    given = predict(found.head, x)
    assert torch.equal(given.argmax(1), found.clusters)
    assert float(given.amax(1).mean()) > 0.95


def test_centroids_from_the_processor_and_components_from_a_gpu_meet():
    with FakeTensorMode():
        pca = PCA(*(torch.empty(shape, device="cuda") for shape in ((8,), (4, 8), (4,))))
        for whiten in (False, True):
            weight, bias = linear_form(torch.empty(3, 4), pca, whiten)
            assert (weight.device.type, bias.device.type, weight.shape, bias.shape) == ("cpu", "cpu", (3, 8), (3,))


def test_above_the_sample_all_images_are_still_clustered():
    x, truth = blobs(SAMPLE + 100, length=3, spread=0.02, seed=1)
    unit = functional.normalize(x, dim=1)
    found = run_kmeans(unit, 4)
    best = Lloyd(4, n_init=10, random_state=0).fit(unit.numpy()).inertia_
    assert found.inertia == pytest.approx(best, rel=1e-4)
    assert len({(a, b) for a, b in zip(found.clusters.tolist(), truth.tolist(), strict=True)}) == 4


def test_temperature_gives_the_confidence_asked_for():
    logits = torch.randn(500, 6)
    for confidence in (0.4, 0.9):
        found = torch.softmax(logits / find_temperature(logits, confidence), dim=1).amax(1).mean()
        assert float(found) == pytest.approx(confidence, abs=1e-3)
    assert float(torch.softmax(logits / find_temperature(logits, 1.0), dim=1).amax(1).mean()) < 0.995


def test_clear_clusters_are_reproducible_and_noise_is_not():
    clear, noise = fit_kmeans(blobs(spread=0.1)[0], 4), fit_kmeans(torch.randn(300, 24), 4)
    assert clear.reproducible > 0.99
    assert noise.reproducible < 0.8


@pytest.mark.parametrize(("num_images", "length"), [(100, 8), (12, 30)])
def test_components_are_those_of_scikit_learn(num_images, length):
    x = torch.randn(num_images, length) * torch.linspace(3, 0.5, length)
    ours, theirs = fit_pca(x, 4), Reference(4).fit(x.numpy())
    variances = theirs.explained_variance_ * (num_images - 1) / num_images
    assert np.allclose(ours.variances.numpy(), variances, rtol=1e-3)
    assert np.allclose(np.abs((ours.directions.numpy() * theirs.components_).sum(1)), 1, atol=1e-3)
    assert np.allclose(ours.apply(x, whiten=True).square().mean(0).numpy(), 1, atol=1e-3)


def test_components_stop_at_the_rank_of_the_data():
    flat = torch.randn(50, 2) @ torch.randn(2, 10)
    assert len(fit_pca(flat, 10).variances) == 2
    alike = torch.ones(5, 10)
    assert torch.equal(fit_pca(alike, 3).apply(alike), torch.zeros(5, 1))


def test_components_are_found_where_single_precision_fails(monkeypatch):
    """LAPACK gives up on some matrices with many equal eigenvalues."""
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    expected, eigh = fit_pca(x, 5), torch.linalg.eigh

    def fail(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    found = fit_pca(x, 5)
    assert found.directions.dtype == torch.float32
    assert torch.allclose(found.directions, expected.directions, atol=1e-4)
    assert torch.allclose(found.variances, expected.variances, rtol=1e-4)


def test_too_few_images_and_nan_are_told():
    with pytest.raises(UserError, match="5 clusters of 3 images"):
        run_kmeans(torch.randn(3, 4), 5)
    with pytest.raises(UserError, match="all images are the same"):
        run_kmeans(torch.ones(9, 4), 2)
    with pytest.raises(UserError, match="NaN"):
        run_kmeans(torch.full((9, 4), torch.nan), 2)


def test_copies_of_one_image_are_clustered_with_another():
    points = torch.zeros(20, 3) + torch.tensor([1.0, 0.0, 0.0])
    points[7] = torch.tensor([0.0, 1.0, 0.0])
    found = fit_kmeans(points, 2)
    assert [int((found.clusters == found.clusters[i]).sum()) for i in (0, 7)] == [19, 1]
    with pytest.raises(UserError, match="all images are the same"):
        fit_kmeans(points[:7], 2)


def test_even_components_have_variance_1_on_average_and_fold_back():
    x = torch.randn(100, 8) * torch.linspace(5, 0.5, 8)
    even = fit_even_pca(x, 4)
    points, plain = even.apply(x), fit_pca(x, 4).apply(x)
    assert float(points.var(0, correction=0).mean()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(points / plain, torch.full_like(points, float(even.scale)), rtol=1e-4)
    weight, bias = torch.randn(3, 4), torch.randn(3)
    folded = even.fold(weight, bias)
    assert torch.allclose(x @ folded[0].T + folded[1], points @ weight.T + bias, atol=1e-4)
