"""`label --method`: n-grams, likeness to examples and output scores, each latent by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli import options as opt
from monoscope.cli.explainer import Asked, check_which, parse_latents
from monoscope.cli.output import Bar, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store
from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas

RULES = "rules"
METHODS = (RULES, "ngrams", "similarity", "output")
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="M",
        help="rules; ngrams (needs the model); similarity (to the examples); output (what a "
        "feature writes when it is turned up).",
    ),
]


@dataclass(frozen=True)
class Wanted:
    """Which method on which features.

    Raises ConfigError for an unknown method.
    """

    method: str
    latents: str | None
    n: int | None
    model: str | None
    device: str | None
    seed: int

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                "no such method of labelling",
                got=repr(self.method),
                expected=f"one of {', '.join(METHODS)}",
            )
        check_which(self.latents, self.n)

    def pick(self, atlas: Atlas) -> list[int]:
        """Those named, or as many as asked of the living in random order, or all of these."""
        if self.latents is not None:
            return [atlas.require(latent) for latent in parse_latents(self.latents)]
        from monoscope.features.explain.run import pick

        return pick(atlas, self.n or atlas.n_features, self.seed)


def run(atlas: str, sae: str, store: str, wanted: Wanted, asked: Asked, as_json: bool) -> None:
    """Do it and print the summary.

    Raises ConfigError where a language model is asked as well.
    """
    if asked.wanted:
        raise ConfigError("--method and --explainer-url are two ways; give one of them")
    from monoscope.artifact import load_sae
    from monoscope.features.atlas import load_atlas

    held = load_atlas(atlas)
    latents = wanted.pick(held)
    with quiet_stdout(as_json), Bar("label", "latents") as bar:
        loaded, acts = load_sae(sae), open_store(store)
        summary = _DO[wanted.method](held, loaded, acts, latents, wanted, bar)
    (print_json if as_json else print_table)(summary)


def _ngrams(atlas: Any, sae: Any, store: Any, latents: Any, wanted: Wanted, bar: Bar) -> Any:
    from monoscope.features.ngrams.run import Settings, label_ngrams

    lm = opt.recorded_model(sae, wanted.model, wanted.device)
    settings = Settings(seed=wanted.seed)
    bar.note(f"label: at most {settings.most_texts} short texts a latent")
    return label_ngrams(atlas, sae, store, lm, latents, settings=settings, progress=bar.at)


def _similarity(atlas: Any, sae: Any, store: Any, latents: Any, wanted: Wanted, bar: Bar) -> Any:
    from monoscope.features.similarity.minilm import MiniLM
    from monoscope.features.similarity.run import Settings, score_similarity

    return score_similarity(
        atlas, sae, store, MiniLM(), latents, embedder=MiniLM.name,
        settings=Settings(seed=wanted.seed), progress=bar.at,
    )  # fmt: skip


def _output(atlas: Any, sae: Any, store: Any, latents: Any, wanted: Wanted, bar: Bar) -> Any:
    from monoscope.features.labels import check_same
    from monoscope.features.outputs import keep_outputs
    from monoscope.steer.outputs import draw_others, output_scores
    from monoscope.steer.prompts import NEUTRAL_PROMPTS

    check_same(atlas, sae, store)
    lm = opt.recorded_model(sae, wanted.model, wanted.device)
    asked = {"times_norm": 0.35, "n_random": 8, "seed": wanted.seed}
    others = draw_others(latents, wanted.seed)

    def score(some: list[int], done: Any) -> None:
        output_scores(lm, sae, atlas, some, others=others, done=done, **asked)  # type: ignore[arg-type]

    about = asked | {"prompts": list(NEUTRAL_PROMPTS), "model": lm.identity}
    return keep_outputs(atlas, latents, score, about, bar.at)


_DO = {"ngrams": _ngrams, "similarity": _similarity, "output": _output}
