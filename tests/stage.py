"""What tests of commands share: a script run in this process as its command would, and stages that take a second."""

import importlib

from system.files import REPOSITORY
from utils import cli

FOLDERS = {"simclr": "pretext", "scan": "scan", "selflabel": "selflabel"}
TINY = ["seed=0", "epochs=2", "batch_size=32", "width=4", "num_workers=0"]
OWN = {"simclr": ["num_mined_train=8"], "scan": ["num_neighbors=5"], "selflabel": ["confidence_threshold=0.15"]}


def few_digits(num_train, num_val):
    """Words for the first so many digits of each split."""
    return [f"train_db_kwargs.num_images={num_train}", f"val_db_kwargs.num_images={num_val}"]


def command(script, *words):
    """Run a script as its command would; returns the exit code."""
    main = importlib.import_module(script).main  # not at the top: processes of tests need few of them
    try:
        return cli.run(main, [str(word) for word in words])
    except SystemExit as end:
        return end.code


def words_of(script, root, *more):
    """The command line of a stage of the digits with tiny settings, whose results go to root; later words win."""
    config = f"configs/{FOLDERS[script]}/{script}_digits.yml"
    files = ["--config_env", REPOSITORY / "configs/env.yml", "--config_exp", REPOSITORY / config]
    return [str(word) for word in (*files, f"root_dir={root}", *TINY, *OWN[script], *more)]


def stage(script, root, *more):
    """Run a stage of the digits as its command would; returns the exit code."""
    return command(script, *words_of(script, root, *more))
