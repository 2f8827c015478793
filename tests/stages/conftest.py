"""What tests of commands share: clusterings of features take part of a second."""

import pytest

from methods import scan_heads, temi, turtle

FEW_STEPS = {
    scan_heads: {"num_steps": 50, "num_heads": 2},
    temi: {"num_steps": 50, "num_heads": 3, "hidden": 32, "bottleneck": 16, "batch_size": 128},
    turtle: {"num_steps": 40, "num_heads": 2},
}


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        for method, options in FEW_STEPS.items():
            fit = method.fit
            patch.setattr(method, "fit", lambda *a, fit=fit, options=options, **own: fit(*a, **{**options, **own}))
        yield
