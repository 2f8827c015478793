"""BYOL's online network: a contrastive model that also predicts what another one makes of another view."""

import copy

from torch import Tensor

from models.models import ContrastiveModel, mlp_batchnorm


class OnlineNetwork(ContrastiveModel):
    """A copy of a contrastive model, with a predictor behind its head; images `[B, 3, H, W]` to `[B, features_dim]`.

    The keys of its state are the model's, and `predictor.*`.
    """

    def __init__(self, model: ContrastiveModel, features_dim: int):
        super(ContrastiveModel, self).__init__()
        self.backbone, self.backbone_dim = copy.deepcopy(model.backbone), model.backbone_dim
        self.contrastive_head = copy.deepcopy(model.contrastive_head)
        self.predictor = mlp_batchnorm(features_dim, features_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return predictions `[B, features_dim]`, of any length."""
        return self.predictor(self.contrastive_head(self.backbone(x)))
