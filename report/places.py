"""Where the pictures of a model go, and under which names."""

from pathlib import Path


class Places:
    """Paths for what is drawn of a model: next to it or in `out`, under names that no other model's pictures have."""

    def __init__(self, model: Path, split: str = "val", out: Path | str | None = None) -> None:
        self.folder = Path(out) if out else model.parent
        name = model.name
        for ending in (".tar", ".pth", ".pt"):
            name = name.removesuffix(ending)
        self.words = [word for word, default in ((name, "model"), (split, "val")) if word != default]

    def __call__(self, name: str) -> Path:
        """The path of a file that is called `name` for the val split of model.pth.tar."""
        stem, dot, ending = name.partition(".")
        return self.folder / ("-".join([stem, *self.words]) + dot + ending)
