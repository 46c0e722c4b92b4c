"""Lists of features: pages by cursor, the whole order in binary, facets, and one feature."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParam

from monoscope.viewer import find, reading
from monoscope.viewer import schemas as s
from monoscope.viewer.examples import Examples, examples
from monoscope.viewer.facets import facets as count_facets
from monoscope.viewer.state import ViewerState

Q = Annotated[str, Query(max_length=2000, description="Words and filters; docs/design/viewer.md.")]
Sort = Annotated[str, Query(max_length=40, description=f"One of {', '.join(find.SORTS)}.")]
Order = Annotated[Literal["", "asc", "desc"], Query(description="Empty: the sort's own.")]
BoxText = Annotated[str, Query(max_length=120, description="x0,y0,x1,y1 on the map, from 0 to 1.")]
Path = s.Latent
BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}
MOST_ROWS = 200


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/features and what is below it."""
    api = APIRouter(prefix="/api/v1", tags=["features"])
    catalogue, atlas, root = state.catalogue, state.atlas, state.config.root

    def asked(q: str, sort: str, order: str, box: str) -> find.Search:
        return find.search(
            q, atlas.notebook, sort=sort,
            descending=None if not order else order == "desc",
            box=find.Box.parse(box) if box else None,
        )  # fmt: skip

    @api.get("/features")
    def features(
        q: Q = "", sort: Sort = "", order: Order = "", box: BoxText = "",
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
        cursor: Annotated[str, Query(max_length=200)] = "",
    ) -> s.FeaturePage:  # fmt: skip
        """The latents that a query finds, page by page: pass next_cursor as cursor."""
        search = asked(q, sort, order, box)
        where, given = find.after(search, cursor) if cursor else ("true", {})
        found = catalogue.ask(
            f"{search.sql} SELECT latent, {find.key(search)} AS key FROM found "
            f"WHERE {where} ORDER BY {search.order} LIMIT {limit + 1}",
            search.given | given,
        )
        total = catalogue.ask(f"{search.sql} SELECT count(*) AS n FROM found", search.given)
        more = len(found) > limit
        return s.FeaturePage(
            items=reading.rows(catalogue, [row["latent"] for row in found[:limit]]),
            total=total[0]["n"],
            sort=search.sort,
            next_cursor=find.cursor(search, found[limit - 1]) if more else None,
        )

    @api.get("/features/order", response_class=Response, responses=BINARY)
    def order_of(q: Q = "", sort: Sort = "", order: Order = "", box: BoxText = "") -> Response:
        """Every latent that a query finds, in order, as little-endian uint32."""
        search = asked(q, sort, order, box)
        found = catalogue.columns(
            f"{search.sql} SELECT latent FROM found ORDER BY {search.order}", search.given
        )
        return Response(
            np.asarray(found["latent"]).astype("<u4").tobytes(),
            media_type="application/octet-stream",
            headers={"x-sort": search.sort},
        )

    @api.get("/features/rows")
    def rows_of(
        ids: Annotated[list[s.Latent], Query(min_length=1, max_length=MOST_ROWS)],
    ) -> list[s.FeatureRow]:
        """The latents named, as lines of a list, in the order given; unknown ones are left out."""
        return reading.rows(catalogue, ids)

    @api.get("/features/facets")
    def facets(q: Q = "", box: BoxText = "") -> s.Facets:
        """What the latents that a query finds are like."""
        return count_facets(catalogue, asked(q, "latent", "", box))

    @api.get("/features/examples")
    def shown_examples() -> Examples:
        """Terms for the search box that find something in this atlas."""
        return examples(catalogue)

    @api.get("/features/{latent}")
    def feature(latent: Path) -> s.FeatureDetail:
        """All that the atlas knows of one latent."""
        return reading.detail(catalogue, atlas, latent, root)

    @api.get("/features/{latent}/around")
    def around(
        latent: Path, q: Q = "", sort: Sort = "latent", order: Order = "", box: BoxText = ""
    ) -> s.Around:
        """The latents before and after this one in a query's order."""
        search = asked(q, sort, order, box)
        atlas.require(latent)
        found = catalogue.ask(
            f"{search.sql} SELECT * FROM (SELECT latent, "
            f"lag(latent) OVER w AS previous, lead(latent) OVER w AS next, "
            f"row_number() OVER w AS rank, count(*) OVER () AS total FROM found "
            f"WINDOW w AS (ORDER BY {search.order})) WHERE latent = $at",
            search.given | {"at": latent},
        )
        if found:
            return s.Around(**found[0])
        total = catalogue.ask(f"{search.sql} SELECT count(*) AS n FROM found", search.given)
        return s.Around(latent=latent, previous=None, next=None, rank=None, total=total[0]["n"])

    @api.get("/documents/{doc}")
    def document(
        doc: Annotated[int, PathParam(ge=0, lt=2**62)], latent: Path | None = None
    ) -> s.DocumentOut:
        """A whole document that an example is from, with a latent's recorded activations."""
        if latent is not None:
            atlas.require(latent)
        return reading.document(catalogue, doc, latent)

    return api
