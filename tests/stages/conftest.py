"""What tests of commands share: clusterings of features take part of a second."""

import pytest

from methods import candidates, scan_heads, temi, turtle

FEW_STEPS = {
    "scan": (scan_heads, {"num_steps": 50, "num_heads": 2}),
    "temi": (temi, {"num_steps": 50, "num_heads": 3, "hidden": 32, "bottleneck": 16, "batch_size": 128}),
    "turtle": (turtle, {"num_steps": 40, "num_heads": 2}),
}


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        for name, (module, options) in FEW_STEPS.items():
            fit = module.fit

            def fit_shortly(*given, fit=fit, options=options, **own):
                return fit(*given, **{**options, **own})

            patch.setattr(module, "fit", fit_shortly)
            patch.setitem(candidates.METHODS, name, fit_shortly)
        yield
