"""What a network of timm was trained with, which a result that rests on it must say, by the tag of its weights."""

import re

UNKNOWN, NO_LABELS, IMAGENET, CAPTIONS = "unknown", "no labels", "ImageNet's labels", "captions"
WITHOUT_LABELS = re.compile(r"(fb_)?dino|(dinov3_)?lvd\d+m|sat493m|mae|fcmae|seer|in\d+k_ijepa")
WITH_IMAGENET = re.compile(r"(?<!mim_)(?<!lc_)in(w21|1|12|21|22)k|mim_.*_ft_")
WITH_CAPTIONS = re.compile(r"clip|laion|openai|datacomp|dfn|webli|merged2b|cc12m|yfcc15m|ogvl")


def trained_with(tag: str) -> str:
    """What weights were trained with, by the tag that timm gives them: `a1_in1k`, `lvd142m`, `in22k_ft_in1k`."""
    if WITHOUT_LABELS.fullmatch(tag):
        return NO_LABELS
    if WITH_IMAGENET.search(tag):
        return IMAGENET
    return CAPTIONS if WITH_CAPTIONS.search(tag) else UNKNOWN
