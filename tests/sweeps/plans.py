from sweeps.plan import make_plan
from utils.config import REPOSITORY

SELFLABEL = str(REPOSITORY / "configs/selflabel/selflabel_digits.yml")
SCAN = str(REPOSITORY / "configs/scan/scan_digits.yml")


def plan_of(env, *words, stage="selflabel", exp=SELFLABEL):
    return make_plan(stage, env, {stage: exp}, words)
