"""What `features` does with a text: which latents fire on it, or more on it than on another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from monoscope.cli import options as opt
from monoscope.cli.output import console, print_json, quiet_stdout

if TYPE_CHECKING:
    from monoscope.features.atlas import Atlas
    from monoscope.features.text import TextFeatures
    from monoscope.lm.protocol import LM
    from monoscope.sae import SAE

By = Literal["sum", "max", "n_tokens"]
BY: tuple[By, ...] = get_args(By)
Given = str | list[dict[str, str]]


@dataclass(frozen=True)
class Reader:
    """What texts are read with: an atlas, its SAE and model, and how much is read at once.

    dense: False leaves out the latents that fire on a tenth of all tokens.
    """

    atlas: Atlas
    sae: str
    model: str | None
    device: str | None
    context_length: int
    dense: bool = True

    def read(self, *texts: Given) -> list[TextFeatures]:
        """The features of each text or chat. Raises MismatchError for an SAE of another atlas."""
        from monoscope.artifact import load_sae
        from monoscope.artifact.checks import check_atlas

        sae = load_sae(self.sae)
        check_atlas(sae, self.atlas.manifest)
        lm = opt.recorded_model(sae, self.model, self.device)
        left_out = set() if self.dense else self.atlas.dense()
        return [self._one(lm, sae, text).without(left_out) for text in texts]

    def _one(self, lm: LM, sae: SAE, given: Given) -> TextFeatures:
        from monoscope.features.text import features_on_chat, features_on_text

        if isinstance(given, str):
            return features_on_text(lm, sae, given, context_length=self.context_length)
        return features_on_chat(lm, sae, given, context_length=self.context_length)


def on_text(reader: Reader, given: Given, by: By, limit: int, as_json: bool) -> None:
    """Print what fires on a text or a chat, in total and token by token."""
    from monoscope.features.show import text_page

    with quiet_stdout(as_json):
        (found,) = reader.read(given)
    labels = reader.atlas.labels()
    if not as_json:
        return console().print(text_page(found, labels, by=by, n_features=limit))
    told: dict[str, Any] = found.to_json(limit=limit, by=by)
    for total in told["totals"]:
        total["label"] = labels.get(total["latent"])
    print_json(told)


def compared(reader: Reader, a: str, b: str, limit: int, as_json: bool) -> None:
    """Print what fires more in text a, by mean value a token, and what more in text b."""
    from monoscope.features.show import differences_page
    from monoscope.features.text import differences

    with quiet_stdout(as_json):
        found = reader.read(a, b)
    labels = reader.atlas.labels()
    rows = differences(found[0], found[1], limit)
    if not as_json:
        return console().print(differences_page(rows, labels, limit=limit))
    print_json(
        {
            "a": a,
            "b": b,
            "site": found[0].site,
            "differences": [
                {
                    "latent": row.latent, "a": row.a, "b": row.b, "difference": row.difference,
                    "label": labels.get(row.latent),
                }
                for row in rows
            ],
        }
    )  # fmt: skip
