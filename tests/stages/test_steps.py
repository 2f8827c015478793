"""A step of each stage by hand: which views go through the network, and what is compared with what."""

import pytest
import torch
from torch.nn import functional

import scan
import selflabel
import simclr
from losses.fixmatch import FixMatch
from losses.scan import SCANLoss
from losses.selflabel import ConfidenceBasedCE
from losses.simclr import SimCLRLoss
from tests.losses import test_fixmatch as fixmatch
from tests.losses.test_losses import naive_scan, naive_selflabel, naive_simclr, normal


def test_the_positive_of_a_view_is_the_other_view_of_the_image():
    views = [functional.normalize(normal(6, 4, seed=seed), dim=1) for seed in (0, 1)]
    seen = []
    loss = simclr.step(lambda images: seen.append(len(images)) or images, SimCLRLoss(0.5), *views)
    assert loss.item() == pytest.approx(naive_simclr(torch.stack(views, 1).numpy(), 0.5), rel=1e-12)
    assert seen == [12]  # BatchNorm sees both views at once


def test_every_head_compares_an_anchor_with_its_neighbor():
    weights, (anchors, neighbors) = normal(2, 5, 4, seed=2), normal(2, 9, 5, scale=2)
    found = scan.step(lambda images: [images @ weight for weight in weights], SCANLoss(3.0), anchors, neighbors)
    heads = [naive_scan((anchors @ weight).tolist(), (neighbors @ weight).tolist(), 3.0) for weight in weights]
    (total, *more), (other, *others) = heads
    expected = [total + other, *((one + two) / 2 for one, two in zip(more, others, strict=True))]
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-12)


def test_the_plain_view_gives_the_label_and_the_strong_one_learns_it():
    plain, strong = normal(40, 4, scale=3), normal(40, 4, seed=1, scale=3).requires_grad_()
    loss, labels = selflabel.step(lambda images: [images], ConfidenceBasedCE(0.6, True), plain.requires_grad_(), strong)
    assert loss.item() == pytest.approx(naive_selflabel(plain.tolist(), strong.tolist(), 0.6, True), rel=1e-12)
    assert torch.equal(labels.confident, plain.softmax(1).amax(1) > 0.6)
    loss.backward()
    assert plain.grad is None and strong.grad.any()


def test_labeled_images_are_learned_with_the_strong_views():
    plain, strong, labeled, targets = fixmatch.batch()
    loss, _ = selflabel.step_with_labels(lambda images: [images], FixMatch(0.6, 0.5), plain, strong, labeled, targets)
    expected = fixmatch.naive(*(part.tolist() for part in (plain, strong, labeled, targets)), 0.6, 0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
