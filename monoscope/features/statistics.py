"""Everything an index gathers while tokens stream by, as one mergeable state.

It grows with the number of latents, never with the number of tokens. The states of two parts of a
corpus, cut between documents, merge into the state of the whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from monoscope.errors import MismatchError
from monoscope.features.coactivation import Pairs, merge_pairs, pair_counter
from monoscope.features.columns import Columns, share
from monoscope.features.metadata import MetaMass
from monoscope.features.samples import Samples, token_hashes
from monoscope.ops.moments import Moments


class Statistics:
    """Figures, examples, metadata and pair counts of L latents over the tokens seen so far.

    seed: draws the samples. expected_l0: about how many latents are active on a token; decides
    whether every pair is counted or pairs of a sample of tokens.
    """

    def __init__(self, n_latents: int, *, seed: int = 0, expected_l0: float = 32.0) -> None:
        self.n_latents, self.seed = n_latents, seed
        self.n_tokens = self.n_documents = self.n_entries = 0
        self.moments = Moments.empty(n_latents)
        self.samples = Samples.empty(n_latents, seed)
        self.meta = MetaMass(n_latents)
        self.pairs: Pairs = pair_counter(n_latents, expected_l0)

    def update(
        self,
        indices: NDArray[np.int32],
        values: NDArray[np.float32],
        offsets: NDArray[np.int64],
        doc: NDArray[np.int64],
        pos: NDArray[np.int32],
        meta: Mapping[int, Mapping[str, str]],
        *,
        threads: int = 1,
    ) -> None:
        """Add a block of N tokens of whole documents, sorted by document, then position.

        indices, values [nnz], offsets [N+1]: the codes in compressed rows; entries that are not
        above zero count as silent. doc, pos [N]: whose tokens they are. meta: the metadata of
        those documents. threads: latents are shared among them; the result is the same.
        """
        columns = Columns.from_rows(indices, values, offsets, self.n_latents)
        hashes = token_hashes(self.seed, doc, pos)
        category = self.meta.categories(doc, meta)
        self.pairs.add(columns, hashes, threads)
        self.n_tokens += len(doc)
        self.n_documents += len(np.unique(doc))
        self.n_entries += len(columns.values)

        def add(latents: tuple[int, int]) -> None:
            self.moments.update(columns.starts, columns.values, latents)
            self.samples.update(columns, doc, pos, hashes, latents)
            self.meta.update(columns, category, latents)

        share(add, columns.parts(threads))

    def merge(self, other: Statistics) -> None:
        """Add the state of other documents.

        Raises MismatchError if the latents, the seeds or the ways of counting pairs differ.
        """
        if (self.n_latents, self.seed) != (other.n_latents, other.seed):
            raise MismatchError(
                "cannot merge statistics of different latents or seeds",
                got=f"{other.n_latents} latents, seed {other.seed}",
                expected=f"{self.n_latents} latents, seed {self.seed}",
            )
        merge_pairs(self.pairs, other.pairs)
        self.moments.merge(other.moments)
        self.samples.merge(other.samples)
        self.meta.merge(other.meta)
        self.n_tokens += other.n_tokens
        self.n_documents += other.n_documents
        self.n_entries += other.n_entries


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of two sets of documents together; leaves both as they are.

    Raises MismatchError if the latents, the seeds or the ways of counting pairs differ.
    """
    whole = copy.deepcopy(a)
    whole.merge(b)
    return whole
