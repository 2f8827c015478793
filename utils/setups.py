"""What a config's `setup` may be: a script or method, the stage it belongs to, and what it needs, a line each.

Adding a method is adding a line here; its keys are those of `utils.schema`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from system.text import quoted

STAGES = ("pretext", "scan", "selflabel")
"""The stages of the method in the order in which they run; each has folders of its own."""
TRAINING_KEYS = (
    *("criterion", "optimizer", "optimizer_kwargs", "epochs", "batch_size"),
    *("augmentation_strategy", "transformation_kwargs"),
)
"""What every stage that trains demands of a config."""


class Setup(NamedTuple):
    """What a config's `setup` stands for."""

    module: str
    """What runs it, as Python imports it."""
    stage: str
    """The folder of its results, and the word that may stand before a key: `scan.epochs=25`."""
    needs: tuple[str, ...]
    """Keys that its config must hold."""
    starts_from: str | None = None
    """The stage whose model it begins with."""
    num_mined: int | None = None
    """Of a pretext task: neighbors that are mined for each training image, unless the config says how many."""
    mined: Literal["head", "backbone"] = "head"
    """Of a pretext task: the outputs that are compared."""
    has_head: bool = True
    """Of a pretext task: whether its model has a contrastive head besides the backbone."""
    num_outputs: int | Literal["num_classes"] | None = None
    """Of a pretext task that classifies: the classes that its linear head tells apart; None for a contrastive head."""
    has_model: bool = True
    """Whether a finished run leaves a model."""
    averages: bool = False
    """Whether its model may be the running average of the weights."""
    criteria: tuple[str, ...] = ()
    """The losses that it can be trained by."""

    @property
    def script(self) -> str:
        """What one types after `python`."""
        return f"-m {self.module}" if "." in self.module else f"{self.module}.py"


SETUPS = {
    "simclr": Setup("simclr", "pretext", TRAINING_KEYS, num_mined=20, averages=True, criteria=("simclr",)),
    "moco": Setup("moco", "pretext", ("transformation_kwargs",), num_mined=50, mined="backbone"),
    "pretrained": Setup("methods.pretrained", "pretext", (), num_mined=50, mined="backbone", has_head=False),
    "candidates": Setup("methods.candidates", "candidates", ("num_classes",), starts_from="pretext"),
    "number": Setup("methods.number", "number", (), starts_from="pretext", has_model=False),
    "rotnet": Setup(
        "methods.rotnet",
        "pretext",
        TRAINING_KEYS,
        num_mined=20,
        mined="backbone",
        num_outputs=4,
        averages=True,
        criteria=("cross-entropy",),
    ),
    "instdisc": Setup(
        "methods.instdisc", "pretext", TRAINING_KEYS, num_mined=20, averages=True, criteria=("instdisc", "instdisc-nce")
    ),
    "supervised": Setup(
        "methods.supervised",
        "pretext",
        (*TRAINING_KEYS, "num_classes"),
        num_mined=20,
        mined="backbone",
        num_outputs="num_classes",
        averages=True,
        criteria=("cross-entropy",),
    ),
    "byol": Setup("methods.byol", "pretext", TRAINING_KEYS, num_mined=20, criteria=("byol",)),
    "scan": Setup(
        "scan", "scan", (*TRAINING_KEYS, "num_classes"), starts_from="pretext", averages=True, criteria=("scan",)
    ),
    "selflabel": Setup(
        "selflabel",
        "selflabel",
        (*TRAINING_KEYS, "num_classes"),
        starts_from="scan",
        averages=True,
        criteria=("confidence-cross-entropy", "fixmatch"),
    ),
    "iic": Setup("methods.iic", "iic", (*TRAINING_KEYS, "num_classes"), criteria=("iic",)),
    "ucc": Setup("methods.ucc", "ucc", (*TRAINING_KEYS, "num_classes"), criteria=("ucc",)),
    "kmeans": Setup("methods.kmeans", "kmeans", ("num_classes",)),
}
RELIABLE_KEYS = ("reliable_share", "reliable_neighbors", "reliable_batch_size")
USED_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("use_ema", "ema_alpha", "patience", *RELIABLE_KEYS), ("selflabel",)),
    "trained_layers": ("selflabel", "supervised"),
    "update_cluster_head_only": ("scan",),
    "average_decay": tuple(name for name, setup in SETUPS.items() if setup.averages),
}
"""Keys that only some setups read: a command line may give them to no other one."""
NEVER_SHARED = ("average_decay", *RELIABLE_KEYS)
"""Those of them that no config of another setup may hold either, not even one that several stages share."""


def stage_of(word: str) -> str | None:
    """The stage that a setup's or a stage's name speaks of; None for another word."""
    return SETUPS[word].stage if word in SETUPS else word if word in STAGES else None


def stages_until(stage: str) -> tuple[str, ...]:
    """The stages that lead to this one, in the order in which they run, and itself last."""
    if stage in STAGES:
        return STAGES[: STAGES.index(stage) + 1]
    before = next(setup.starts_from for setup in SETUPS.values() if setup.stage == stage)
    return (*stages_until(before), stage) if before else (stage,)


def how_to_train(config: Mapping[str, Any], env: str | None, exp: str, overrides: Sequence[str]) -> str | None:
    """The command that trains the model of a config from these files and words; None where it lacks what that needs."""
    setup = SETUPS[config["setup"]]
    if any(config.get(key) in (None, {}) for key in setup.needs):
        return None
    files = [*(["--config_env", env] if env else []), "--config_exp", exp]
    return quoted(["python", *setup.script.split(), *files, *overrides])


def how_to_run(stage: str) -> str:
    """What to do where a stage's files are missing: the command, and the key that names another run of it."""
    first, *others = (setup.script for setup in SETUPS.values() if setup.stage == stage)
    shown = [script for script in others if not script.startswith("-m")]
    more = f" (or {', '.join([*shown, 'python -m methods.NAME'])})" if len(shown) < len(others) else ""
    return (
        f"run the {stage} stage first: python {first} --config_exp FILE{more}; a run of another name is given with "
        f"{stage}_run=NAME"
    )
