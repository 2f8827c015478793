"""timm's weights on the Hugging Face hub: found in the local cache, else downloaded, or one sentence why not."""

import contextlib
import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from system import distributed
from system.console import say
from system.errors import UserError

TIMEOUT = 15  # seconds without an answer
FILES = ("model.safetensors", "pytorch_model.bin")  # a repository has the first, or only the second
TRUE_WORDS = {"1", "ON", "YES", "TRUE"}  # as the hub's own library reads its variables
SHA256_LENGTH = 64


@dataclass(frozen=True)
class HubFile:
    """A downloaded file, and the commit of the repository that it is from."""

    path: Path
    repository: str
    commit: str


class _Bar(tqdm):
    """A bar on a terminal, silence elsewhere; the hub's library passes a name that tqdm does not know."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)
        kwargs["disable"] = not (sys.stderr.isatty() and distributed.is_main())
        super().__init__(*args, **{**kwargs, "leave": False, "dynamic_ncols": True})


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE_WORDS


def find_cached(repository: str) -> HubFile | None:
    """The weights of a repository such as `timm/resnet50.a1_in1k` in the local cache, without a network."""
    from huggingface_hub import try_to_load_from_cache

    for name in FILES:
        path = try_to_load_from_cache(repository, name, cache_dir=_cache())
        if isinstance(path, str):
            return _hub_file(repository, path)
    return None


def fetch(repository: str, offline: bool = False, timeout: float = TIMEOUT) -> HubFile:
    """The weights of a repository, from the cache where they are there, else downloaded with a progress bar.

    `offline` forbids the network, as HF_HUB_OFFLINE does; HF_ENDPOINT names another server, HF_HOME another cache. A
    server that says nothing for `timeout` seconds is given up.
    Raises UserError when they are not there and cannot be downloaded, or are damaged.
    """
    cached = find_cached(repository)
    if cached is not None:
        return _verified(cached)
    if offline or is_offline():
        raise UserError(
            f"the weights of {repository} are not in {_cache()} and downloading is switched off; run once with a "
            "network and without offline, or give their file as weights"
        )
    return _verified(_download(repository, timeout))


def _cache() -> Path:
    from huggingface_hub import constants

    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    return Path(os.environ["HF_HOME"]).expanduser() / "hub" if "HF_HOME" in os.environ else Path(constants.HF_HUB_CACHE)


def _download(repository: str, timeout: float) -> HubFile:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
    host = urlsplit(endpoint).netloc
    say(f"downloading the weights of {repository} from {host}")
    before = constants.HF_HUB_DOWNLOAD_TIMEOUT
    constants.HF_HUB_DOWNLOAD_TIMEOUT = timeout  # type: ignore[assignment]  # typed int there, and used as a float
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of every retry
    try:
        _require_answer(endpoint, timeout)
        for name in FILES:
            try:
                path = hf_hub_download(
                    repository,
                    name,
                    cache_dir=_cache(),
                    endpoint=endpoint,
                    etag_timeout=timeout,
                    tqdm_class=_Bar,
                )
            except LocalEntryNotFoundError:  # no answer; it is an EntryNotFoundError by descent
                raise
            except EntryNotFoundError:
                continue
            return _hub_file(repository, path)
        raise FileNotFoundError(f"it has neither {' nor '.join(FILES)}")
    except Exception as error:  # of the network, the server, the disk: they have no common type
        raise UserError(
            f"the weights of {repository} cannot be downloaded from {host} ({_reason(error)}); check the network, "
            "or give their file as weights, or use efficientnet_lite0, whose weights are installed"
        ) from error
    finally:
        constants.HF_HUB_DOWNLOAD_TIMEOUT = before
        logger.setLevel(level)


def _require_answer(endpoint: str, timeout: float) -> None:
    """Raise OSError at once where no server answers; the hub's library would try six times, in over 20 seconds."""
    with contextlib.suppress(HTTPError):  # an answer too
        urlopen(Request(endpoint, method="HEAD"), timeout=timeout).close()


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors, in one line."""
    while error.__cause__ is not None or (error.__context__ is not None and not error.__suppress_context__):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]


def _hub_file(repository: str, path: str) -> HubFile:
    return HubFile(Path(path), repository, Path(path).parent.name)


def _verified(file: HubFile) -> HubFile:
    """The file, compared with the checksum that the cache names it by; raises UserError when it differs."""
    stored = file.path.resolve()
    if len(stored.name) == SHA256_LENGTH:
        with stored.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != stored.name:
                raise UserError(f"{stored} is damaged: its checksum differs; delete it to download it again")
    return file
