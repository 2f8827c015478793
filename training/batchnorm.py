"""BatchNorm whose statistics are those of the global batch, also on the CPU, where PyTorch has none."""

from typing import Any

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


KINDS: dict[type[nn.Module], type[_GlobalBatchNorm]] = {
    nn.BatchNorm2d: GlobalBatchNorm2d,
    nn.BatchNorm1d: GlobalBatchNorm1d,
}


def _adopt(module: Any) -> _GlobalBatchNorm:
    # Parameters and buffers are handed over as they are: an optimizer that holds them goes on to work.
    adopted = KINDS[type(module)](
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    adopted._parameters.update(module._parameters)
    adopted._buffers.update(module._buffers)
    return adopted.train(module.training)


def synchronize_batchnorm(model: nn.Module) -> nn.Module:
    """Let every BatchNorm of a model that is on its device share its statistics between the ranks.

    nn.SyncBatchNorm on CUDA, one of KINDS elsewhere; state_dict keys and parameters stay the same. A subclass, such as
    timm's that also activates, is left as it is: it is part of pretrained backbones alone, which keep their statistics.
    """
    if type(model) in KINDS:
        on_cuda = any(parameter.is_cuda for parameter in model.parameters())
        return nn.SyncBatchNorm.convert_sync_batchnorm(model) if on_cuda else _adopt(model)
    for name, child in model.named_children():
        setattr(model, name, synchronize_batchnorm(child))
    return model
