"""The loss of TEMI (https://arxiv.org/abs/2303.17896, equations 8 to 10): pointwise mutual information of neighbors."""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

LOWEST_PROBABILITY = 1e-8


class TEMITerms(NamedTuple):
    """The mean over the heads, and every head's own loss, by which the best head is chosen."""

    total: Tensor
    heads: Tensor


class TEMILoss(nn.Module):
    """Make the clusters of an image and its neighbor tell as much as possible of each other.

    pmi(x, x') = log sum_c (s(c|x) t(c|x'))^beta / q(c), s the student's and t the teacher's probabilities, q a moving
    average of the teacher's mean. loss = -mean_i w_i (pmi(x, x') + pmi(x', x)) / 2 with w = mean over the heads of
    sum_c t(c|x) t(c|x'), without gradient and the same for every head. The total is the mean over the heads.

    Args:
        num_clusters: K.
        num_heads: H.
        beta: 1 lets clusters be of unequal size; smaller values even them out.
        momentum: of q, which starts at 1/K and is updated before it is used.

    Shape:
        student, student_neighbor, teacher, teacher_neighbor: logits [H, B, K] of the global batch.
        result: a scalar and [H], float32 (float64 for float64 logits).

    Raises:
        ValueError: logits of another number of heads or clusters.

    Example:
        >>> criterion = TEMILoss(num_clusters=10, num_heads=4)
        >>> x, neighbor = torch.randn(4, 256, 10, requires_grad=True), torch.randn(4, 256, 10)
        >>> loss = criterion(x, neighbor, x.detach(), neighbor)
        >>> loss.total.backward()
    """

    q: Tensor

    def __init__(
        self,
        num_clusters: int,
        num_heads: int = 1,
        beta: Annotated[float, Field(gt=0, le=1)] = 0.6,
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
    ) -> None:
        super().__init__()
        self.beta, self.momentum = beta, momentum
        self.register_buffer("q", torch.full((num_heads, num_clusters), 1 / num_clusters))

    def forward(
        self, student: Tensor, student_neighbor: Tensor, teacher: Tensor, teacher_neighbor: Tensor
    ) -> TEMITerms:
        """Return the loss of one batch and move q towards the teacher's mean."""
        if student.ndim != 3 or (student.shape[0], student.shape[2]) != tuple(self.q.shape):
            raise ValueError(f"logits must be [{self.q.shape[0]}, B, {self.q.shape[1]}], not {list(student.shape)}")
        dtype = torch.promote_types(student.dtype, torch.float32)
        s, s_neighbor = (functional.log_softmax(x, dim=2, dtype=dtype) for x in (student, student_neighbor))
        with torch.no_grad():
            t, t_neighbor = (functional.log_softmax(x, dim=2, dtype=dtype) for x in (teacher, teacher_neighbor))
            mean = (t.exp().mean(1) + t_neighbor.exp().mean(1)) / 2
            self.q.lerp_(mean.to(self.q.dtype), 1 - self.momentum)
            log_q = self.q.to(dtype).clamp(min=LOWEST_PROBABILITY).log().unsqueeze(1)
            weight = torch.logsumexp(t + t_neighbor, dim=2).exp().mean(0)
        pmi = torch.logsumexp(self.beta * (s + t_neighbor) - log_q, dim=2)
        pmi = (pmi + torch.logsumexp(self.beta * (s_neighbor + t) - log_q, dim=2)) / 2
        heads = -(weight * pmi).mean(1)
        return TEMITerms(heads.mean(), heads)
