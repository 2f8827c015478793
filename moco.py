"""Mine neighbors with released MoCo v2 weights; nothing is trained.

    python moco.py --config_exp configs/pretext/moco_imagenet50.yml --model moco_v2_800ep_pretrain.pth.tar

Writes model.pth.tar and topk-{train,val}-neighbors.npy to {root_dir}/{train_db_name}/pretext. The weights, once:

    wget https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from system.errors import UserError
from utils import cli, pretext

RELEASED = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit code."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--model", type=cli.path, metavar="FILE", help="the weights (default: pretext/checkpoint.pth.tar)"
    )
    p, args = cli.configure(parser, argv, "moco")
    path = Path(args.model or p.pretext_checkpoint)
    if not path.is_file():
        raise UserError(
            f"the MoCo v2 weights {path} are not there; get them once with: wget {RELEASED}, then give --model"
        )
    return pretext.mine_only(p, str(path))


if __name__ == "__main__":
    sys.exit(cli.run(main))
