"""SAEs on the Hugging Face hub: what a name means, fetching its files, never a line of its code."""

from __future__ import annotations

import re
import socket
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import getproxies

from monoscope.errors import ModelError

_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?P<folder>(?:/[\w.=+-]+)*)(?:@(?P<revision>[\w./-]+))?"
)
_DATA = (".json", ".safetensors", ".npz", ".pt")
_LISTED = 6


def is_hub_id(text: str) -> bool:
    """Whether `text` can be "owner/name[/folder][@revision]" and not a mistyped path.

    A first part that is a folder here makes it a path.
    """
    match = _ID.fullmatch(text)
    owner = text.split("/", 1)[0]
    return bool(match) and owner not in (".", "..", "~") and not Path(owner).exists()


def located(source: str | Path) -> Path:
    """The path that `source` names here; fetched first where it is a hub id.

    Raises ModelError as `fetch`.
    """
    path = Path(source)
    return fetch(str(source)) if not path.exists() and is_hub_id(str(source)) else path


def fetch(text: str) -> Path:
    """Download the data files of one SAE and give the folder or file they lie in.

    Raises ModelError, in one line, if the hub cannot be reached, does not have the repository, or
    has several SAEs in it.
    """
    from huggingface_hub import HfApi, snapshot_download

    match = _ID.fullmatch(text)
    assert match is not None
    repo, folder, revision = match["repo"], match["folder"].strip("/"), match["revision"]
    try:
        names = _cached(repo, revision)
        if names is None and (why := unreachable()):
            raise _absent(text, why)  # asked, the client would try again for half a minute
        names = names or HfApi().list_repo_files(repo, revision=revision)
        wanted = _wanted(names, folder, repo)
        root = snapshot_download(repo, revision=revision, allow_patterns=wanted)
    except ModelError:
        raise
    # the client lets errors of whatever HTTP library it uses through, with no common root
    except Exception as error:
        raise _explained(text, error) from error
    return Path(root) / folder


def unreachable() -> str | None:
    """Why the hub cannot be asked, or None where it seems it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "the hub is not asked, HF_HUB_OFFLINE is set"
    host = urlsplit(constants.ENDPOINT).hostname
    try:
        if not getproxies():  # a proxy resolves names for us
            socket.getaddrinfo(host, 443)
    except OSError:
        return "the hub cannot be reached from here"
    return None


def _cached(repo: str, revision: str | None) -> list[str] | None:
    """The files of a repository that are here already, where the hub is not to be asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if unreachable() is None:
        return None
    try:
        root = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]


def _wanted(names: list[str], folder: str, repo: str) -> list[str]:
    """The data files to fetch: those of the one folder that is named, or holds the SAE."""
    inside = [n for n in names if not folder or n == folder or n.startswith(f"{folder}/")]
    if not inside:
        raise ModelError(
            f"the hub's {repo} has no {folder}", got=f"{len(names)} files", hint=_list(names)
        )
    data = [n for n in inside if PurePosixPath(n).suffix in _DATA]
    weights = [n for n in data if not n.endswith(".json")]
    homes = {_home(n) for n in weights}
    if not weights:
        raise ModelError(f"the hub's {repo} holds no SAE", expected="safetensors, .npz or .pt")
    if len(homes) > 1:
        raise ModelError(
            f"the hub's {repo} holds {len(homes)} SAEs", hint=f"Name one. {_list(list(homes))}"
        )
    home = homes.pop()
    above = PurePosixPath(home).parent.as_posix()
    return [n for n in data if _home(n) == home or PurePosixPath(n).parent.as_posix() == above]


def _home(name: str) -> str:
    """The folder of an SAE that the file belongs to; a checkpoint's is the folder above it."""
    parent = PurePosixPath(name).parent
    return (parent.parent if parent.name == "checkpoints" else parent).as_posix()


def _list(names: list[str]) -> str:
    shown = sorted(names)[:_LISTED]
    return f"There are {', '.join(shown)}{', …' if len(names) > _LISTED else ''}."


def _explained(text: str, error: Exception) -> ModelError:
    kind, first = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
    if "gated" in first.lower() or kind == "GatedRepoError":
        reason = "access is restricted; log in to the hub"
    elif kind == "RepositoryNotFoundError":
        reason = "the hub has no such repository"
    elif kind == "RevisionNotFoundError":
        reason = "it has no such revision"
    else:
        reason = f"{kind}: {first[:200]}"
    return _absent(text, reason)


def _absent(text: str, reason: str) -> ModelError:
    return ModelError(
        "no such SAE here or on the Hugging Face hub",
        got=repr(text),
        expected="a folder, a file, or owner/name on the hub",
        hint=f"{Path(text).absolute()} does not exist; nothing of that name was downloaded before; "
        f"{reason}.",
    )
