"""What tests of ranks share: processes forked from one that has imported what they need, which takes seconds."""

import multiprocessing

import torch.multiprocessing as mp

IMPORTED = ["tests.distributed.test_predict"]  # and all that it imports


def run_ranks(function, num, *words):
    """Call `function(rank, *words)` in `num` processes, whose environment is that of the first call; wait for them."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    mp.start_processes(function, words, nprocs=num, start_method="forkserver")
