"""What is said of clusters whose images are all left out."""

import torch

from recipes.leave_out import warn_of_emptied


def test_clusters_whose_images_are_all_left_out_are_named(capsys):
    warn_of_emptied(torch.tensor([0, 3, 0, 0]), torch.tensor([2, 3, 0, 1]))
    assert "all images of cluster 0, 3 are left out" in capsys.readouterr().err
    warn_of_emptied(torch.tensor([1, 3]), torch.tensor([2, 3]))
    assert capsys.readouterr().err == ""
