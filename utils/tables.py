"""The tables that a config's names lead into, and the keys that hold the options of what they name.

A new kind of part is a row here; a new part is a line in its package's table.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data import DATASETS
from data.augment import AUGMENTATIONS, Evaluation
from data.augment.pretrained import Pretrained
from losses import CRITERIA
from models import BACKBONES
from models.models import ContrastiveModel
from models.pretrained import is_pretrained
from system.sections import Section, look_up, section_of
from training.optimizers import OPTIMIZERS
from training.schedule import SCHEDULES, learning_rate
from utils.setups import SETUPS


class Table(NamedTuple):
    """A kind of part, and where a config speaks of it."""

    key: str
    """The key with its name; where there is but one part, the part's own name."""
    entries: Mapping[str, Any]
    kwargs: str | None = None
    """The key with its options."""
    not_options: tuple[str, ...] = ()
    """Parameters of an entry that a config does not give."""
    more: tuple[Callable[..., Any], ...] = ()
    """Functions whose parameters are options of every entry."""
    with_defaults: bool = False
    """Whether options that a config leaves out are written into it, for what is saved and compared."""
    may_be_empty: bool = False
    """Whether a config may give a name without options, because only the stage that uses the part demands them."""

    def name(self, config: Mapping[str, Any]) -> str | None:
        """The entry that a config names."""
        if self.key == "val_db_name":  # by default the training split
            return config["val_db_name"] or config["train_db_name"]
        if self.key == "evaluation" and is_pretrained(config["backbone"]):
            return "pretrained"
        return config.get(self.key, self.key)

    def section(self, name: str) -> type[Section]:
        """The options of an entry; raises ConfigError for an unknown name."""
        return section_of(look_up(self.entries, name, self.key), *self.more, left_out=self.not_options)


_PROGRESS = ("base", "epoch", "epochs", "scheduler", "progress")

TABLES = (
    Table("setup", SETUPS),
    # A folder's class numbers come from the split that was built before.
    Table("train_db_name", DATASETS, "train_db_kwargs", not_options=("classes", "values"), with_defaults=True),
    Table("val_db_name", DATASETS, "val_db_kwargs", not_options=("classes", "values"), with_defaults=True),
    Table("backbone", BACKBONES),
    Table(
        "contrastive head", {"contrastive head": ContrastiveModel}, "model_kwargs", ("backbone",), with_defaults=True
    ),
    # The threshold of self-labeling and the cluster prior are keys of their own.
    Table("criterion", CRITERIA, "criterion_kwargs", not_options=("threshold", "cluster_prior")),
    Table("optimizer", OPTIMIZERS, "optimizer_kwargs", not_options=("parameters",), may_be_empty=True),
    Table("scheduler", SCHEDULES, "scheduler_kwargs", not_options=_PROGRESS, more=(learning_rate,)),
    Table(
        "evaluation", {"evaluation": Evaluation, "pretrained": Pretrained}, "transformation_kwargs", may_be_empty=True
    ),
    Table("augmentation_strategy", AUGMENTATIONS, "augmentation_kwargs"),
)
