"""Losses, one per file: tensors of the global batch in, their mean or its terms out; and the table of their names."""

from collections.abc import Callable

from torch import nn

from losses.byol import BYOLLoss
from losses.cross_entropy import CrossEntropy
from losses.fixmatch import FixMatch
from losses.iic import IICLoss
from losses.instdisc import InstanceDiscrimination, InstanceNCE
from losses.scan import SCANLoss
from losses.selflabel import ConfidenceBasedCE
from losses.simclr import SimCLRLoss
from losses.temi import TEMILoss
from losses.turtle import TURTLELoss
from losses.ucc import UCCLoss

# Losses that only a method of methods/ calls, with inputs of its own.
METHOD_LOSSES: dict[str, Callable[..., nn.Module]] = {"temi": TEMILoss, "turtle": TURTLELoss}

# What a config's `criterion` names.
CRITERIA: dict[str, Callable[..., nn.Module]] = {
    "simclr": SimCLRLoss,
    "scan": SCANLoss,
    "confidence-cross-entropy": ConfidenceBasedCE,
    "fixmatch": FixMatch,
    "byol": BYOLLoss,
    "cross-entropy": CrossEntropy,
    "instdisc": InstanceDiscrimination,
    "instdisc-nce": InstanceNCE,
    "iic": IICLoss,
    "ucc": UCCLoss,
}

# Those of them that a config's `cluster_prior` goes to, and its `confidence_threshold`.
WITH_PRIOR = ("scan", "confidence-cross-entropy")
WITH_THRESHOLD = ("confidence-cross-entropy", "fixmatch")
