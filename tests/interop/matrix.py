"""Writes the matrix of docs/interop.md: python -m tests.interop.matrix RESULTS.xml, of pytest."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree  # of our own pytest run, so nothing hostile is in it

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "interop.md"
BLOCK = re.compile(
    r"(?<=<!-- matrix: made by make test-peers -->\n).*?(?=<!-- end of matrix -->)", re.DOTALL
)

IN, OUT, BACK = "peer writes, monoscope reads", "monoscope writes, peer reads", "and back again"
LAID = "file of that layout, peer's loader"
"""Written by the tests to the peer's description, where its package writes none; it loads them."""
BY_HAND = ("gemma_scope", "openmoss-llama_scope", "saelens-legacy", "dictionary_learning")
SAES = {
    "test_what_a_peer_writes_computes_the_same_here": IN,
    "test_what_we_write_computes_the_same_there": OUT,
    "test_what_they_save_again_comes_back_bit_for_bit": BACK,
}
PEERS = {
    "saelens": "sae-lens",
    "gemma_scope": "sae-lens",
    "openmoss-llama_scope": "sae-lens",
    "openmoss": "llamascopium",
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
}
"""By the longest prefix of a case: the package that writes or reads it."""
_PLAIN = {"gemma_scope": "jumprelu", "sparsify": "topk"}
OTHERS = {
    "test_saelens_makes_its_activation_store_from_our_export": (
        "saelens", "peer's activation store from our export", "with and without BOS", "sae-lens"
    ),
    "test_saedashboards_classes_take_our_batches": (
        "saedashboard", OUT, "features", "sae-dashboard"
    ),
    "test_neuronpedias_client_would_send_our_batches": (
        "neuronpedia", OUT, "features", "neuronpedia"
    ),
    "test_a_result_is_saebench_output_key_by_key": (
        "SAEBench result", "peer reads and writes again, key by key", "core", "sae-bench"
    ),
    "test_the_figures_that_should_agree_do": (
        "SAEBench runner", "peer evaluates our object", "figures", "sae-bench"
    ),
    "test_reconstruction_is_the_same": (
        "SAELens run_evals", "same tokens, same figures", "reconstruction", "sae-lens"
    ),
    "test_cross_entropy_is_the_same": (
        "SAELens run_evals", "same tokens, same figures", "cross-entropy", "sae-lens"
    ),
    "test_kl_is_the_same_once_the_last_position_counts": (
        "SAELens run_evals", "same tokens, same figures", "KL", "sae-lens"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One proof: which format, which way, of what, with which package, and whether it held."""

    form: str
    way: str
    what: str
    peer: str
    passed: bool


def cases(results: Path) -> Iterator[Case]:
    """Every proof among the tests of a JUnit file; a test that was skipped proves nothing."""
    for test in ElementTree.parse(results).iter("testcase"):
        name, _, inside = test.get("name", "").partition("[")
        passed = not any(test.find(kind) is not None for kind in ("failure", "error", "skipped"))
        if name in SAES:
            case = inside.rstrip("]")
            peer = max((p for p in PEERS if case.startswith(p)), key=len)
            form = peer.partition("-")[0]
            what = case.removeprefix(form).lstrip("-") or _PLAIN[form]
            way = LAID if SAES[name] == IN and case.startswith(BY_HAND) else SAES[name]
            yield Case(form, way, what, PEERS[peer], passed)
        elif name in OTHERS:
            form, way, what, peer = OTHERS[name]
            yield Case(form, way, what, peer, passed)


def version(package: str) -> str:
    """The version of a package that the peers' environments are pinned to."""
    pins = "\n".join(p.read_text() for p in (ROOT / "tests/interop/peers").glob("*.txt"))
    (found,) = set(re.findall(rf"^{package}==(\S+)$", pins, re.MULTILINE))
    return str(found)


def table(found: list[Case]) -> str:
    """Format × direction × result, a line for each package."""
    groups: dict[tuple[str, str, str], list[Case]] = {}
    for case in found:
        groups.setdefault((case.form, case.way, case.peer), []).append(case)
    lines = ["| format | direction | with | held | cases |", "|---|---|---|---|---|"]
    for (form, way, peer), held in groups.items():
        names = ", ".join(dict.fromkeys(c.what + ("" if c.passed else " FAILED") for c in held))
        share = f"{sum(c.passed for c in held)} of {len(held)}"
        lines.append(f"| {form} | {way} | {peer} {version(peer)} | {share} | {names} |")
    return "\n".join(lines) + "\n"


def main(results: str) -> int:
    """Put the table into the page; 1, and the page as it was, if there is nothing to tell."""
    found = list(cases(Path(results)))
    page = PAGE.read_text(encoding="utf-8")
    if not found or not BLOCK.search(page):
        print(f"no proofs in {results}, or no place for them in {PAGE.name}", file=sys.stderr)
        return 1
    made = table(found)
    print(made)
    PAGE.write_text(BLOCK.sub(lambda _: made, page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
