"""The file tree in README.md, made from each file's own first line: `python tests/docs/tree.py`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FENCE = re.compile(r"(?<=```tree\n).*?(?=```)", re.DOTALL)
COMMENT = re.compile(r"\s*(?:<!doctype html>\s*)?(?:/\*|//|<!--)\s*(.*?)\s*(?:\*/|-->|\n)")

# Folders in the order in which the data pass through them.
ROOMS = {
    "cli": "the command line",
    "ops": "pure tensor functions: no module, no config, no I/O",
    "sae": "the autoencoder",
    "artifact": "the SAE on disk, as monoscope's and as other libraries'",
    "lm": "language models: nothing here knows SAEs",
    "data": "corpus → tokens → activation store → shuffled stream",
    "train": "from x [N,D] to a trained SAE; knows neither models nor text",
    "evals": "how good an SAE is",
    "features": "from an SAE and a store to an atlas",
    "steer": "turning features up and down",
    "sweep": "many sizes from one pass over the data, and the law that they follow",
    "interop": "other libraries' files, checked; SAEBench",
    "viewer": "the local web page and its API",
    "demo": "the whole job in one command",
}
# Folders told in one line: their files cannot speak for themselves.
GROUPS = {
    "vendor": "kept as published, with their licences",
    "prompts": "what a labelling model is asked: files to read, and to replace with your own",
}
AFTER = {
    "tests/": "unit mirrors the package; conformance, numerics, properties, faults, e2e, docs",
    "benchmarks/": "one script for each claim about speed or quality",
    "docs/": "how it is built, and why",
    "Makefile": "demo, test, clean",
    "pyproject.toml": "the package, and the settings of every tool",
    "constraints.txt": "the exact versions that are tested",
    "embedded.txt": "the packages that carry the embedded model and texts",
    "embedder.txt": "the package that carries the sentence embedder of `label --method similarity`",
    ".ci/run": "what continuous integration runs",
}


def first_sentence(path: Path) -> str:
    """What a file says of itself: the first paragraph of its docstring or leading comment."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    else:
        comment = re.match(
            r"\s*(?:<!doctype html>\s*)?(?:/\*|//|<!--)\s*(.*?)\s*(?:\*/|-->|\n)", text
        )
        said = comment[1] if comment else ""
    said = " ".join(said.split())
    name, colon, rest = said.partition(": ")
    # "SAE: the one autoencoder class" names what the file's own name says already.
    said = (rest if colon and " " not in name else said).rstrip(".")
    return said[:1].upper() + said[1:]


def files(folder: Path) -> list[Path]:
    found = [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    found = [p for p in found if p.stat().st_size > 0]
    return sorted(found, key=lambda p: (p.name != "__init__.py", str(p)))


def lines() -> list[str]:
    package = ROOT / "monoscope"
    rows: list[tuple[int, str, str]] = [(0, "monoscope/", "the package")]
    rows += [(1, p.name, first_sentence(p)) for p in files(package) if p.parent == package]
    for room, purpose in ROOMS.items():
        held = files(package / room) if (package / room).is_dir() else []
        grouped = {p: kind for p in held for kind in GROUPS if kind in p.parts}
        rows += [(1, f"{room}/", purpose)] if held else []
        rows += [
            (2, str(p.relative_to(package / room)), first_sentence(p))
            for p in held
            if p not in grouped
        ]
        folders = {(str(p.parent.relative_to(package / room)), kind) for p, kind in grouped.items()}
        rows += [(2, f"{name}/", GROUPS[kind]) for name, kind in sorted(folders)]
    rows += [(0, name, purpose) for name, purpose in AFTER.items()]
    return [f"{'  ' * depth + name:<24} {purpose}".rstrip() for depth, name, purpose in rows]


def in_readme() -> str:
    found = FENCE.search(README.read_text(encoding="utf-8"))
    return found[0] if found else ""


if __name__ == "__main__":
    page = README.read_text(encoding="utf-8")
    README.write_text(FENCE.sub(lambda _: "\n".join(lines()) + "\n", page), encoding="utf-8")
