"""BatchNorm whose statistics are those of the global batch, also on the CPU, where PyTorch has none."""

import functools

import torch
from torch import Tensor, nn

from system import distributed


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the slices of all ranks, which may differ in length; the same state_dict keys.

    Forward, backward and running statistics are those of one process that holds the whole batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize this rank's slice `[B, C, …]`; in eval mode by the running statistics."""
        if not self.training or distributed.world_size() == 1:
            return super().forward(x)
        return self.forward_global(x)

    def forward_global(self, x: Tensor) -> Tensor:
        """Normalize by the mean and the biased variance over all ranks, and update the running statistics.

        https://arxiv.org/abs/1502.03167, algorithm 1. The variance takes a second pass and a second
        reduction: the difference of mean square and squared mean loses digits where the mean is large. Formed
        from differentiable sums, both carry the gradient of every rank's outputs to every rank's inputs.
        """
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        over = [0, *range(2, x.ndim)]
        spread = (-1, *[1] * (x.ndim - 2))  # of a number a channel
        num_local = values.new_tensor([values.numel() // values.shape[1]])
        sums = distributed.all_reduce_sum(torch.cat([values.sum(dim=over), num_local]))
        num = sums[-1].detach()
        mean = sums[:-1] / num
        centered = values - mean.view(spread)
        variance = distributed.all_reduce_sum(centered.square().sum(dim=over)) / num
        self._update(mean.detach(), variance.detach() * num / (num - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        out = centered * scale.view(spread)
        if self.affine:
            out = out + self.bias.view(spread)
        return out.to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean += momentum * (mean - self.running_mean)
        self.running_var += momentum * (variance - self.running_var)


class GlobalBatchNorm2d(_GlobalBatchNorm, nn.BatchNorm2d):
    """Of images `[B, C, H, W]`."""


class GlobalBatchNorm1d(_GlobalBatchNorm, nn.BatchNorm1d):
    """Of features `[B, C]`."""


@functools.cache
def _kinds() -> dict[type[nn.Module], type[_GlobalBatchNorm]]:
    from timm.layers import BatchNormAct2d  # slow to import

    class GlobalBatchNormAct2d(_GlobalBatchNorm, BatchNormAct2d):
        """Of images, followed by an activation, as in the networks of timm."""

        def forward_global(self, x: Tensor) -> Tensor:
            return self.act(self.drop(super().forward_global(x)))

    return {
        nn.BatchNorm2d: GlobalBatchNorm2d,
        nn.BatchNorm1d: GlobalBatchNorm1d,
        BatchNormAct2d: GlobalBatchNormAct2d,
    }


def synchronize_batchnorm(model: nn.Module) -> nn.Module:
    """Let every BatchNorm of a model that is on its device share its statistics between the ranks.

    PyTorch's and timm's own on CUDA, those above elsewhere; state_dict keys and parameters stay the same.
    """
    if any(parameter.is_cuda for parameter in model.parameters()):
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in _kinds():
            module.__class__ = _kinds()[type(module)]  # with all that it holds: an optimizer's parameters are the same
    return model
