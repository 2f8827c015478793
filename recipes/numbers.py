"""How many clusters, as `--num_clusters` says it: one number, or several to be compared."""

import argparse

from system.text import shown

MOST = 100  # numbers of clusters in one call; each takes seconds and has a page of its own


def parse_numbers(text: str) -> list[int]:
    """The numbers of clusters of `5` or `5,8,10-14`, ascending and each once.

    Raises argparse.ArgumentTypeError for anything else, and for a number below 2.
    """
    found: set[int] = set()
    for part in text.split(","):
        found.update(_parse_part(part.strip(), text))
        if len(found) > MOST:
            raise argparse.ArgumentTypeError(f"{shown(text)} is more than {MOST} numbers; give fewer")
    return sorted(found)


def _parse_part(part: str, text: str) -> range:
    """The numbers of `5` or `10-14`."""
    first, dash, last = part.partition("-")
    if not part:
        raise argparse.ArgumentTypeError(f"{shown(text)} has nothing between two commas; give numbers as in 5,8,10-14")
    words = [first, last] if dash else [first]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise argparse.ArgumentTypeError(f"{shown(part)} is not a number of clusters; give numbers as in 5,8,10-14")
    least, most = int(words[0]), int(words[-1])
    if least > most:
        raise argparse.ArgumentTypeError(f"{part} runs downwards; give {most}-{least}")
    if least < 2:
        raise argparse.ArgumentTypeError(f"{part} is too few: grouping needs at least 2 clusters")
    return range(least, min(most, least + MOST) + 1)
