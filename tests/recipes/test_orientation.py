"""Whether left and right matter in images: decided by images whose answer is known."""

import numpy as np
import pytest

from recipes.look import Look
from recipes.orientation import FEWEST_IMAGES, has_sides, mirror_accuracy

NUM, SIDE = 120, 8


def noise():
    return np.random.default_rng(0).normal(size=(NUM, SIDE, SIDE))


def test_a_stroke_on_one_side_is_seen_and_noise_has_no_sides():
    pictures = noise()
    pictures[:, :, 0] += 4
    assert mirror_accuracy(pictures) == 1.0 and has_sides(pictures)
    assert abs(mirror_accuracy(noise()) - 0.5) < 0.15 and not has_sides(noise())


def test_symmetric_images_are_pairs_of_equals():
    pictures = noise()
    assert mirror_accuracy(pictures + pictures[:, :, ::-1]) == 0.5


def test_a_thing_that_faces_either_way_has_no_sides():
    pictures = noise()
    pictures[:, :, 0] += 4
    pictures[::2] = pictures[::2, :, ::-1]
    pictures = pictures[np.random.default_rng(1).permutation(NUM)]
    assert not has_sides(pictures)


def test_too_few_images_say_nothing():
    pictures = noise()[: FEWEST_IMAGES - 1]
    pictures[:, :, 0] += 4
    assert not has_sides(pictures)


@pytest.mark.parametrize(
    ("seen", "flip", "no_flip", "expected"),
    [(False, False, False, True), (True, False, False, False), (True, True, False, True), (False, False, True, False)],
)
def test_what_is_asked_goes_before_what_is_seen(seen, flip, no_flip, expected):
    look = Look(files=None, num_images=9, short_side=32, gray=False, mean=[], std=[], has_sides=seen)
    assert look.may_flip(flip, no_flip) is expected
