from types import SimpleNamespace

import torch

from clustering.prediction import predict_rows
from models.heads import build_head


def test_rows_are_predicted_where_they_are_and_the_model_stays_where_it_is():
    torch.manual_seed(0)
    head = build_head("linear", dims=[4], num_clusters=3)
    model, rows = SimpleNamespace(leave_out=None, cluster_head=[head]), torch.randn(5, 4)
    (block,) = predict_rows(model, 0, list("abcde"), rows)
    expected = torch.softmax(rows @ head.weight.T + head.bias, dim=1)
    assert torch.allclose(block.prediction.probabilities, expected)
    (elsewhere,) = predict_rows(model, 0, list("abcde"), rows.to("meta"))  # a second device on every machine
    assert elsewhere.prediction.probabilities.shape == (5, 3)
    assert elsewhere.prediction.probabilities.device.type == "meta" and head.weight.device.type == "cpu"
