"""Does `--leave_out` find foreign images? A tenth of a data set's images are those of others, on cached features.

    python -m benchmarks.leave_out --data DIR --cache DIR     # seconds

DIR of --data and --cache are those of benchmarks.judge. Writes benchmarks/results/leave_out.json. The foreign images
are of all other data sets together (few of a kind), or of one (as many as a cluster has), and there are cases without
any. Of those left out, how many are foreign, and how much of the foreign ones is left out: by the share that they are,
by `auto`, and, to compare with the share, by the lowest confidence of K-means, by how little SCAN heads and K-means of
several draws agree on an image, and by the mean rank in that and in the distance. Labels are not read: that an image
is foreign only scores.
"""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from benchmarks.judge_data import NETWORKS, SIDES, load_features
from clustering.candidate import Embedding, predict
from clustering.leave_out import fit_leave_out
from clustering.mining import mine_neighbors
from clustering.vote import vote
from methods import kmeans_heads, scan_heads
from system.runtime import generator, one_thread

COMMAND = "python -m benchmarks.leave_out --data DIR --cache DIR"
NUM_IMAGES, NUM_CLUSTERS, NUM_NEIGHBORS = 1500, 10, 20
SHARE = 0.1  # of all images that are foreign
MIXED, NONE = "all others", "none"
COMPARED = ("confidence", "agreement", "both")


def draw(data: Path, cache: Path, own: str, foreign: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features [N, D] of a case, and which images are foreign, bool [N]."""
    draws = generator("foreign", own, foreign, seed)
    others = [] if foreign == NONE else [name for name in SIDES if name != own] if foreign == MIXED else [foreign]
    total = round(NUM_IMAGES * SHARE / (1 - SHARE))
    parts = []
    for name in (own, *others):
        features = torch.from_numpy(load_features(name, NETWORKS[0], data, cache))
        size = NUM_IMAGES if name == own else total // len(others)
        parts.append(features[torch.randperm(len(features), generator=draws)[:size]])
    return torch.cat(parts), torch.arange(sum(map(len, parts))) >= NUM_IMAGES


def score(left: torch.Tensor, foreign: torch.Tensor) -> dict[str, Any]:
    """Return how many are left out and how many of these are foreign, by the masks [N] of both."""
    return {"left_out": int(left.sum()), "foreign_left_out": int((left & foreign).sum())}


def run_case(features: torch.Tensor, foreign: torch.Tensor, seed: int, compare: bool) -> dict[str, Any]:
    """Return the scores of a case by each way to leave images out; `compare` adds that by confidence."""
    found = {"auto": score(fit_leave_out(features, NUM_CLUSTERS, seed=seed)(features), foreign)}
    if num := int(foreign.sum()):
        share = num / len(features)
        found["share"] = score(fit_leave_out(features, NUM_CLUSTERS, share, seed)(features), foreign)
    if compare:
        head = kmeans_heads.fit(Embedding(features), NUM_CLUSTERS, seed, num_draws=1).head
        agreement = agreement_of_heads(features, seed)
        distances = fit_leave_out(features, NUM_CLUSTERS, seed=seed).distances(features)
        sureness = {
            "confidence": predict(head, features).max(1).values,
            "agreement": agreement,
            "both": agreement.argsort().argsort() - distances.argsort().argsort(),
        }
        for way, sure in sureness.items():
            left = torch.zeros_like(foreign).index_fill(0, sure.argsort()[:num], True)
            found[way] = score(left, foreign)
    return {"num_images": len(features), "num_foreign": num, **found}


def agreement_of_heads(features: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the largest mean probability [N] of matched clusters over the heads of SCAN and of K-means."""
    embedding = Embedding(features, torch.from_numpy(mine_neighbors(features, NUM_NEIGHBORS)))
    scan = scan_heads.fit(embedding, NUM_CLUSTERS, seed)
    kmeans = kmeans_heads.fit(embedding, NUM_CLUSTERS, seed, num_draws=len(scan.heads))
    heads = [candidate.with_best(best) for candidate in (scan, kmeans) for best in range(len(candidate.heads))]
    return predict(vote(heads, features, NUM_CLUSTERS).head, features).max(1).values


def summarize(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cases of each kind together: alike foreign images, those of all others, and none."""
    rows = []
    for own, kind in product(SIDES, (MIXED, "one other", NONE)):
        of_kind = [case for case in cases if case["data"] == own and kind == _kind(case)]
        row: dict[str, Any] = {"data": own, "foreign": kind, "num_cases": len(of_kind)}
        row |= {key: sum(case[key] for case in of_kind) for key in ("num_images", "num_foreign")}
        for way in ("share", "auto", *COMPARED):
            if way in of_kind[0]:
                row[way] = {key: sum(case[way][key] for case in of_kind) for key in of_kind[0][way]}
        rows.append(row)
    return rows


def _kind(case: dict[str, Any]) -> str:
    return case["foreign"] if case["foreign"] in (MIXED, NONE) else "one other"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = common.case_parser(__doc__, "leave_out.json").parse_args(argv)
    cases = common.read_cases(args.out)["cases"]
    if not args.summary:
        cases = []
        for seed, own, foreign in product(range(2), SIDES, (MIXED, *SIDES, NONE)):
            if own != foreign:
                with one_thread():
                    found = run_case(*draw(args.data, args.cache, own, foreign, seed), seed, foreign == MIXED)
                cases.append({"data": own, "foreign": foreign, "seed": seed, **found})
    result = {"summary": summarize(cases), "machine": common.machine(command=COMMAND), "cases": cases}
    common.write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
