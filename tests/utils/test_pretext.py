"""When a pretext task is monitored by k-NN."""

from types import SimpleNamespace

import pytest
from easydict import EasyDict

from models.models import ContrastiveModel
from models.resnet_cifar import resnet8
from utils.pretext import KnnMonitor


@pytest.mark.parametrize(("train", "val", "due"), [(True, True, [2, 5, 6]), (False, True, []), (True, False, [])])
def test_k_nn_looks_every_few_epochs_and_after_the_last_where_both_splits_have_labels(train, val, due):
    p = EasyDict(setup="simclr", mine_features=None, knn_every=3, epochs=7)
    splits = (SimpleNamespace(has_labels=has) for has in (train, val))
    monitor = KnnMonitor(p, ContrastiveModel(resnet8(width=2)), *splits, None)
    assert [epoch for epoch in range(7) if monitor.due(epoch)] == due
