"""The tables of whole recipes on CIFAR-10, and of what was measured on a GPU."""

import re
from typing import Any

from benchmarks.markdown import Read, markdown, number, telling, where


def recipe(result: dict[str, Any], unit: str) -> str:
    """What a whole recipe reached on CIFAR-10, stage by stage; times in minutes or seconds."""
    stages = result["stages"]
    pretext = stages["pretext"]
    divisor = {"minutes": 60, "seconds": 1}[unit]
    kmeans = [f"{100 * pretext['kmeans'][name]['mean']:.1f}" for name in ("acc", "nmi", "ari")]
    taken = {stage: found.get("seconds_of_command", found.get("seconds")) / divisor for stage, found in stages.items()}
    rows = [[f"SimCLR, {pretext['epochs']} epochs; then K-means", *kmeans, f"{taken['pretext']:.0f}"]]
    for stage, title in (("scan", "SCAN"), ("selflabel", "self-labeling")):
        found = stages[stage]
        scores = [f"{100 * found[name]:.1f}" for name in ("acc", "nmi", "ari")]
        rows.append([f"{title}, {found['epochs']} epochs", *scores, f"{taken[stage]:.0f}"])
    return (
        markdown(["CIFAR-10 (JPEG copy), test split, %", "ACC", "NMI", "ARI", unit], rows)
        + f"\nPurity of the 20 nearest neighbors: {100 * pretext['purity']['train']['20']:.1f} % in the training "
        f"split, {100 * pretext['purity']['val']['20']:.1f} % in the test split, of raw pixels' "
        f"{100 * pretext['pixel_purity_20']:.1f} % in the training split. Seed {result['seed']}, "
        f"{', '.join([*result['recipe'], *telling(result['overrides'])])}; {where(result['machine'])}.\n"
    )


def cifar10(read: Read, file: str = "cifar10_cpu.json") -> str:
    """The recipe for a CPU."""
    return recipe(read(file), "minutes")


def gpu_recipe(read: Read) -> str:
    """The fast recipe on a GPU, and what its steps make of it."""
    result = read("gpu-fast-0.json")
    shares = ", ".join(
        f"{stage} {number(found['views_per_second'])} ({100 * found['fraction_of_peak']:.0f} %)"
        for stage, found in result["stages"].items()
    )
    return recipe(result, "seconds") + (
        f"\nStages and scoring together: {result['seconds']:.0f} s. Views/s over a stage, and the share of "
        f"{number(result['peak_tflops'])} TFLOP/s: {shares}.\n"
    )


def gpu_longer_recipe(read: Read) -> str:
    """The fast recipe with a longer pretext task, whose stages ran as commands of their own."""
    result = read("gpu-fast-330.json")
    pretext = result["stages"]["pretext"]
    share, peak = 100 * pretext["fraction_of_peak"], number(result["peak_tflops"])
    (epochs, taken), *_ = pretext["seconds_per_epoch"].items()
    return recipe(result, "seconds") + (
        f"\nSeconds of whole commands: {result['seconds_of_commands']} together. The pretext task: k-NN "
        f"{100 * pretext['knn_acc']:.1f} %, {number(pretext['views_per_second'])} views/s ({share:.0f} % of {peak} "
        f"TFLOP/s) over all; epochs {epochs} took {taken} s each. {result['note']}\n"
    )


def gpu_smoke(read: Read) -> str:
    """What was compared with the CPU, and whether it agreed."""
    result = read("gpu-smoke.json")
    rows = []
    for name, found in result["checks"].items():
        error = re.sub(r"\d+\.\d{4,}", lambda digits: number(float(digits[0])), found.get("error", ""))
        rows.append([name, "passed" if found["passed"] else f"failed: {error.partition(': ')[2]}"])
    passed = sum(found["passed"] for found in result["checks"].values())
    return (
        markdown(["check", "result"], rows) + f"\n{passed} of {len(rows)} checks passed. {where(result['machine'])}.\n"
    )


def gpu_profile(read: Read) -> str:
    """Where a step's time goes on a GPU, eager and compiled, of every profile that was taken."""
    results = [read(name) for name in ("gpu-profile-simclr.json", "gpu-profile.json")]
    rows = []
    for result in results:
        steps = re.search(r"--steps (\d+)", result["machine"]["command"])
        for stage, ways in result["stages"].items():
            for way, found in ways.items():
                taken = found["seconds_per_step"]
                cells = [f"{1000 * taken[name]:.1f}" for name in ("whole", "views", "network")]
                shares = [f"{100 * share:.0f} %" for share in (found["fraction_of_peak"], found["trace"]["idle_share"])]
                name = f"{stage}, batch {found['batch_size']}, {way}, {steps[1] if steps else '?'} steps"
                rows.append([name, *cells, number(found["views_per_second"]), *shares])
    return (
        markdown(["step", "ms", "views alone", "network alone", "views/s", "of peak", "device idle"], rows)
        + f"\nPeak: {number(results[0]['peak_tflops'])} TFLOP/s. {where(results[0]['machine'])}.\n"
    )


def gpu_scale(read: Read) -> str:
    """What the parts that see a whole split take at ImageNet's size."""
    result = read("gpu-scale.json")
    rows = [
        [
            f"{name}, {sizes(found)}",
            number(found["seconds"]),
            number(found["per_second"]),
            f"{found['peak_memory_gb']['device']:.1f}",
        ]
        for name, found in result["measured"].items()
    ]
    return (
        markdown(["made-up data", "seconds", "images/s", "GB of the device"], rows) + f"\n{where(result['machine'])}.\n"
    )


def sizes(found: dict[str, Any]) -> str:
    """How large a measured input is."""
    size = f"{found['images']:,} images"
    if "crop" in found:
        return f"{size} at {found['crop']} px"
    return f"{size} x {found['dim']:,}" if "dim" in found else f"{size} in {found['clusters']:,} clusters"
