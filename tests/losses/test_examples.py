"""The example in the docstring of each loss is four lines, runs, and ends with a gradient."""

import doctest
import importlib

import pytest
from torch import Tensor, nn

from system.files import REPOSITORY

FILES = sorted(path.stem for path in (REPOSITORY / "losses").glob("*.py") if path.stem != "__init__")


def losses_of(module):
    found = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, nn.Module)]
    return [one for one in found if one.__module__ == module.__name__]


@pytest.mark.parametrize("name", FILES)
def test_the_example_of_each_loss_runs(name):
    module = importlib.import_module(f"losses.{name}")
    assert losses_of(module)
    for loss in losses_of(module):
        assert "\n    Example:\n        >>> " in loss.__doc__
        found = doctest.DocTestParser().get_doctest(loss.__doc__, dict(vars(module)), name, module.__file__, 0)
        said = []
        assert doctest.DocTestRunner().run(found, out=said.append, clear_globs=False) == (0, 4), "".join(said)
        leaves = [one for one in found.globs.values() if isinstance(one, Tensor) and one.is_leaf]
        for model in (one for one in found.globs.values() if isinstance(one, nn.Module)):
            leaves += model.parameters()
        assert any(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)
