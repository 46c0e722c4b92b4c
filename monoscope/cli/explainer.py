"""The flags of `label` that have a language model name features, and what they set going."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.cli.output import Bar, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store
from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.features.explain.plan import Settings

DEFAULT_N = 50


def _flag(name: str, kind: Any, said: str, metavar: str | None = None) -> Any:
    return Annotated[kind, typer.Option(name, metavar=metavar, help=f"Language model: {said}")]


Url = _flag("--explainer-url", str | None, "its OpenAI-compatible address.", "URL")
Model = _flag("--explainer-model", str | None, "its name there.", "M")
Latents = Annotated[
    str | None, typer.Option("--latents", metavar="L", help="Which features, such as 3,17,40-49.")
]
N = Annotated[
    int | None,
    typer.Option(
        "--n",
        metavar="N",
        help=f"How many features, drawn at random. Default: {DEFAULT_N} with a language model, "
        "else all.",
    ),
]
Items = _flag("--items", int | None, "excerpts of each kind it judges. Default: 10.", "N")
Controls = _flag("--controls", int | None, "features of each control. Default: 10.", "N")
AnswerTokens = _flag("--answer-tokens", int | None, "longest answer. Default: 300.", "N")
PromptsDir = _flag("--prompts", str | None, "a folder whose .md files replace ours.", "DIR")
PriceIn = _flag("--price-in", float | None, "price of a million tokens read.", "P")
PriceOut = _flag("--price-out", float | None, "price of a million tokens written.", "P")
MaxCost = _flag("--max-cost", float | None, "stop at this cost; needs prices.", "P")
Concurrency = _flag("--concurrency", int | None, "questions at once. Default: 4.", "N")
Rate = _flag("--rate", float | None, "most questions a minute. Default: no limit.", "N")
Timeout = _flag("--timeout", float | None, "seconds to wait. Default: 120.", "S")
CacheDir = _flag("--cache", str | None, "where answers are kept. Default: our cache.", "DIR")
JudgeLabels = _flag("--judge", bool, "judge the labels there are, a person's too; explain nothing.")
DryRun = _flag("--dry-run", bool, "estimate the cost and ask nothing.")


@dataclass(frozen=True)
class Asked:
    """The flags as given; None where they were not.

    Raises ConfigError for flags that do not go together.
    """

    url: str | None
    model: str | None
    latents: str | None
    n: int | None
    items: int | None
    controls: int | None
    answer_tokens: int | None
    prompts: str | None
    price_in: float | None
    price_out: float | None
    max_cost: float | None
    concurrency: int | None
    rate: float | None
    timeout: float | None
    cache: str | None
    dry_run: bool
    judge: bool
    seed: int

    def __post_init__(self) -> None:
        given = [
            f.name for f in fields(self) if f.name != "seed" and getattr(self, f.name) not in _NONE
        ]
        if given and (self.url is None or self.model is None):
            raise ConfigError(
                "labelling with a language model needs its address and its name",
                got=", ".join(_FLAGS.get(name, f"--{name.replace('_', '-')}") for name in given),
                expected="--explainer-url and --explainer-model",
            )
        check_which(self.latents, self.n)

    @property
    def wanted(self) -> bool:
        """Whether a language model is to be asked."""
        return self.url is not None

    def settings(self) -> Settings:
        """How much is asked."""
        from monoscope.features.explain.plan import Settings

        named = {
            "n_items": self.items, "n_control": self.controls, "concurrency": self.concurrency,
            "answer_tokens": self.answer_tokens,
        }  # fmt: skip
        given: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
        return Settings(seed=self.seed, **given)


def check_which(latents: str | None, n: int | None) -> None:
    """Raise ConfigError unless at most one of --latents and --n is given, and --n is a number."""
    if latents is not None and n is not None:
        raise ConfigError("--latents and --n both say which features; give one of them")
    if n is not None and n < 1:
        raise ConfigError("--n is out of range", got=n, expected="at least 1")


_NONE = (None, False)
_FLAGS = {"url": "--explainer-url", "model": "--explainer-model"}


def explain(atlas: str, sae: str, store: str, asked: Asked, as_json: bool) -> None:
    """Label with a language model and print the summary."""
    from monoscope import assets
    from monoscope.artifact import load_sae
    from monoscope.evals.baselines import RandomSAE
    from monoscope.features.atlas import load_atlas
    from monoscope.features.explain.cost import Budget, Prices
    from monoscope.features.explain.endpoint import Endpoint
    from monoscope.features.explain.journal import Journal
    from monoscope.features.explain.prompts import Prompts
    from monoscope.features.explain.run import explain as run
    from monoscope.features.explain.run import journal_path, pick

    settings, prompts = asked.settings(), Prompts(asked.prompts)
    budget = Budget(Prices(asked.price_in, asked.price_out), asked.max_cost)
    assert asked.url is not None and asked.model is not None
    held, timeout = load_atlas(atlas), 120.0 if asked.timeout is None else asked.timeout
    if asked.latents is None:
        latents = pick(held, asked.n or DEFAULT_N, asked.seed)
    else:
        latents = [held.require(latent) for latent in parse_latents(asked.latents)]
    folder = Path(asked.cache) if asked.cache else assets.cache_dir() / "explain"
    with (
        quiet_stdout(as_json),
        Endpoint(asked.url, asked.model, timeout=timeout, rate=asked.rate) as endpoint,
        Bar("label", "questions") as bar,
    ):
        loaded, acts = load_sae(sae), open_store(store)
        l0 = loaded.config.k or max(1, round(held.manifest["l0"]))  # as measured by `index`
        random = RandomSAE(acts.norm_stats.mean, loaded.d_sae, l0, asked.seed)
        summary = run(
            held, loaded, acts, endpoint, latents, random_sae=random, prompts=prompts,
            budget=budget, journal=Journal(journal_path(folder, endpoint)), settings=settings,
            progress=bar.at, announce=lambda told: bar.note(forecast_line(told)),
            dry_run=asked.dry_run, judge_labels=asked.judge,
        )  # fmt: skip
    (print_json if as_json else print_table)(summary)


def parse_latents(text: str) -> list[int]:
    """ "3,17,40-49" as numbers.

    Raises ConfigError for anything else.
    """
    out: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ConfigError("bad --latents", got=repr(text), expected="such as 3,17,40-49")
        numbers = range(int(low), int(high or low) + 1)
        if not numbers:
            raise ConfigError("bad --latents", got=repr(part), expected="a range that ascends")
        out += numbers
    return out


def forecast_line(told: dict[str, Any]) -> str:
    """The estimated bill in a line."""
    cost = "no prices given" if told["cost"] is None else f"about {told['cost']:.4g}"
    return (
        f"label: about {told['n_calls']:,} questions, {told['prompt_tokens']:,} tokens in and "
        f"{told['completion_tokens']:,} out; cost: {cost}"
    )
