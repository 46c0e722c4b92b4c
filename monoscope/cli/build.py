"""The verbs that make something: collect, train, index, label, demo."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from monoscope.cli import explainer as ask
from monoscope.cli import methods
from monoscope.cli import options as opt
from monoscope.cli.assess import evaluate, one_model, report
from monoscope.cli.output import Bar, print_json, print_table, quiet_stdout
from monoscope.cli.stores import open_store


def register(app: typer.Typer) -> None:
    """Add the verbs to the app, in the order in which they are used."""
    for name, verb, example in (
        ("demo", demo, "monoscope demo --out runs/demo"),
        (
            "collect",
            collect,
            "monoscope collect --model demo --corpus demo --site resid_post.15 "
            "--tokens 1000000 --out runs/store",
        ),
        ("train", train, "monoscope train runs/store --d-sae 4096 --k 32 --out runs/sae"),
        ("eval", evaluate, "monoscope eval runs/sae --store runs/store --out result.json"),
        ("report", report, "monoscope report runs/a.json runs/b.json --out report.html"),
        ("index", index, "monoscope index runs/sae --store runs/store --out runs/atlas"),
        ("label", label, "monoscope label runs/atlas runs/sae --store runs/store"),
    ):
        app.command(name, epilog=f"Example: {example}")(verb)


def demo(
    out: opt.Out = "runs/demo",
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="How many to harvest.")
    ] = 600_000,
    d_sae: opt.DSae = 4096,
    site: opt.SiteName = "resid_post.15",
    model: opt.Model = "demo",
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Do everything below, in order, on the embedded model and texts."""
    from monoscope.demo import run_demo

    with quiet_stdout(as_json):
        summary = run_demo(
            out, tokens=tokens, d_sae=d_sae, site=site, model=model, seed=seed, as_json=as_json
        )
    if as_json:
        print_json(summary)


def collect(
    model: opt.Model,
    corpus: opt.CorpusName,
    site: opt.SiteName,
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="How many to keep.")],
    out: opt.Out,
    text_column: Annotated[
        str | None, typer.Option("--text-column", help="Of a table: where its text is.")
    ] = None,
    context_length: Annotated[
        int, typer.Option("--context-length", help="Tokens of a forward pass.")
    ] = 128,
    max_doc_tokens: Annotated[
        int,
        typer.Option(
            "--max-doc-tokens", metavar="N", help="Of a longer document, the rest is left out."
        ),
    ] = 1024,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of documents kept for evaluation.")
    ] = 0.1,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with a store begun in --out.")
    ] = True,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Harvest a model's activations on a corpus into a store."""
    from monoscope.data.corpus import Corpus
    from monoscope.data.harvest import collect as harvest
    from monoscope.describe import info
    from monoscope.lm import load_lm

    with quiet_stdout(as_json), Bar("collect") as bar:
        texts = Corpus.from_name(corpus, text_column, seed)
        store = harvest(
            load_lm(model, device=device), texts, site, tokens, out, held_out=held_out,
            context_length=context_length, max_doc_tokens=max_doc_tokens, seed=seed,
            resume=resume, progress=bar.harvested,
        )  # fmt: skip
        told = {
            "n_tokens": store.n_tokens(),
            "d_in": store.d_in,
            "site": str(store.site),
            "tokens_per_s": bar.tokens_per_s,
            "bytes": info(out)["bytes"],
            "out": out,
        }
    (print_json if as_json else print_table)(told)


def train(
    out: opt.Out,
    store: Annotated[
        str | None,
        typer.Argument(metavar="[STORE]", help="Store; or give --model, --corpus, --site."),
    ] = None,
    model: opt.TrainModel = None,
    corpus: opt.TrainCorpus = None,
    site: Annotated[
        str | None, typer.Option("--site", metavar="S", help="… at this site; needs --tokens.")
    ] = None,
    max_doc_tokens: opt.TrainDocTokens = None,
    d_sae: Annotated[
        int | None,
        typer.Option("--d-sae", metavar="L", help="Number of latents. Default: 4096."),
    ] = None,
    k: Annotated[
        float | None,
        typer.Option("--k", help="Latents active on a token, or below 1 their share. Default: 32."),
    ] = None,
    target_l0: Annotated[
        float | None,
        typer.Option("--target-l0", help="The same for recipes with a penalty, which it steers."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Such as batchtopk (the default), topk, jumprelu, gated."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option("--activation", help="Picks the recipe of its name.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", metavar="N", help="Training tokens. Default: six passes."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Tokens of a step.")] = 2048,
    lr: Annotated[float | None, typer.Option("--lr", help="Default: the recipe's.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A further setting; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Train an SAE on a store, or straight from a model that reads a corpus."""
    further = opt.parse_settings(settings or [])
    opt.check_one_source("train", store, model, corpus, site, max_doc_tokens)
    from monoscope.train import train as fit

    with quiet_stdout(as_json), Bar("train") as bar:
        run = fit(
            opt.train_source(store, model, corpus, site, seed, device, max_doc_tokens), d_sae=d_sae,
            recipe=recipe, activation=activation,
            k=opt.count(k), target_l0=opt.count(target_l0), n_tokens=tokens,
            batch_size=batch_size, lr=lr, seed=seed, device=opt.checked_device(device), out=out,
            resume=resume, settings=further, progress=bar.trained,
        )  # fmt: skip
    (print_json if as_json else print_table)(run.metrics)


def index(
    sae: opt.SaeDir,
    store: opt.StoreDir,
    out: opt.Out,
    model: opt.RecordedModel = None,
    no_model: opt.NoModel = False,
    tokens: opt.Tokens = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Read the store once and write the atlas of the SAE's features."""
    one_model(model, no_model)
    from monoscope.artifact import load_sae
    from monoscope.features.index import index as build_atlas

    with quiet_stdout(as_json), Bar("index") as bar:
        loaded, acts = load_sae(sae), open_store(store)
        lm = None if no_model else opt.recorded_model(loaded, model, device)
        atlas = build_atlas(loaded, acts, lm, out, n_tokens=tokens, seed=seed, progress=bar.at)
    (print_json if as_json else print_table)(atlas.to_json())


def label(
    atlas: opt.AtlasDir,
    sae: opt.SaeDir,
    store: opt.StoreDir,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="Train tokens that rules are made on.")
    ] = 200_000,
    method: methods.Method = methods.RULES,
    model: opt.RecordedModel = None,
    explainer_url: ask.Url = None,
    explainer_model: ask.Model = None,
    latents: ask.Latents = None,
    n: ask.N = None,
    n_items: ask.Items = None,
    n_control: ask.Controls = None,
    answer_tokens: ask.AnswerTokens = None,
    prompts: ask.PromptsDir = None,
    price_in: ask.PriceIn = None,
    price_out: ask.PriceOut = None,
    max_cost: ask.MaxCost = None,
    concurrency: ask.Concurrency = None,
    rate: ask.Rate = None,
    timeout: ask.Timeout = None,
    cache: ask.CacheDir = None,
    dry_run: ask.DryRun = False,
    judge: ask.JudgeLabels = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Give each feature a rule as its label, with a score on held-out documents.

    With --method, other labels and scores beside it; those take --latents and --n too, and a run
    that was broken off goes on. With --explainer-url, a language model names features and judges
    the names instead.
    """
    wanted = methods.Wanted(method, latents, n, model, device, seed)
    if method != methods.RULES:
        latents = n = None  # said which features this method is for
    asked = ask.Asked(
        explainer_url, explainer_model, latents, n, n_items, n_control, answer_tokens, prompts,
        price_in, price_out, max_cost, concurrency, rate, timeout, cache, dry_run, judge, seed,
    )  # fmt: skip
    if method != methods.RULES:
        return methods.run(atlas, sae, store, wanted, asked, as_json)
    if asked.wanted:
        return ask.explain(atlas, sae, store, asked, as_json)
    from monoscope.artifact import load_sae
    from monoscope.features.atlas import load_atlas
    from monoscope.features.labels import label as give_labels

    with quiet_stdout(as_json), Bar("label") as bar:
        labelled = give_labels(
            load_atlas(atlas), load_sae(sae), open_store(store),
            n_tokens=tokens, seed=seed, progress=bar.at,
        )  # fmt: skip
        n_labelled = sum(text is not None for text in labelled.labels().values())
    told = {
        "n_features": labelled.n_features,
        "n_alive": labelled.n_alive,
        "n_labelled": n_labelled,
        "out": os.fspath(labelled.folder),
    }
    (print_json if as_json else print_table)(told)
