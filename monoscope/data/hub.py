"""Streams a dataset of the Hugging Face hub through the `datasets` library, an optional extra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from monoscope.data.readers import Record
from monoscope.errors import CorpusError


@dataclass(frozen=True)
class HubDataset:
    """One split of one revision of a dataset, to be streamed any number of times."""

    library: ModuleType
    repository: str
    config: str | None
    split: str
    revision: str

    @property
    def title(self) -> str:
        return f"{self.repository} ({self.split})"

    def records(self) -> Iterator[Record]:
        """Its rows in order.

        Raises CorpusError if the dataset cannot be read, with the reason that `datasets` gives.
        """
        number = 0
        try:
            rows = self.library.load_dataset(
                self.repository,
                self.config,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
            for number, values in enumerate(rows, 1):
                yield Record(values, f"{self.title} row {number}")
        # `datasets` and the readers below it raise errors of every kind, with no common root
        except Exception as exc:
            raise CorpusError(f"cannot read {self.title} after row {number}", got=exc) from exc


def open_dataset(name: str, split: str) -> HubDataset:
    """Find "NAME" or "NAME:CONFIG" on the hub and settle its revision; reads no rows yet.

    Raises CorpusError if `datasets` is not installed or the hub does not give the dataset.
    """
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]
    except ImportError as exc:
        raise CorpusError(
            "datasets of the Hugging Face hub need the `datasets` package",
            got=name,
            hint='Run: pip install "monoscope[hub]"',
        ) from exc
    from huggingface_hub import HfApi

    repository, _, config = name.partition(":")
    try:
        revision = HfApi().dataset_info(repository).sha
    except Exception as exc:  # its client lets errors of whatever HTTP library it uses through
        raise CorpusError(
            "cannot find the dataset on the Hugging Face hub", got=f"{repository} ({exc})"
        ) from exc
    return HubDataset(datasets, repository, config or None, split, str(revision))
