"""What a person writes: labels with their history, notes, bookmarks and lists."""

from __future__ import annotations

from fastapi import APIRouter

from monoscope.viewer import reading
from monoscope.viewer import schemas as s
from monoscope.viewer.state import ViewerState


def router(state: ViewerState) -> APIRouter:
    """Below /api/v1/features/{latent}: label, history, note; and /api/v1/lists, /annotations."""
    api = APIRouter(prefix="/api/v1", tags=["annotations"])
    atlas, notebook = state.atlas, state.atlas.notebook

    @api.put("/features/{latent}/label")
    def set_label(latent: s.Latent, given: s.LabelText) -> s.Label:
        """Set a human's label; blank text brings the rule's label back."""
        text = " ".join(given.text.split())
        atlas.annotate(latent, text)
        state.catalogue.relabel(latent, text or None)
        return reading.label(atlas, atlas.feature(latent))

    @api.get("/features/{latent}/history")
    def history(latent: s.Latent) -> s.LabelHistory:
        """Every label that a human gave the latent, the newest first."""
        changes = notebook.history(atlas.require(latent))
        return s.LabelHistory(items=[s.LabelChange(**vars(change)) for change in changes])

    @api.put("/features/{latent}/note")
    def set_note(latent: s.Latent, given: s.Text) -> s.Text:
        """Set the note on a latent; blank text removes it."""
        notebook.set_note(atlas.require(latent), given.text)
        return s.Text(text=notebook.note(latent))

    @api.get("/lists")
    def lists() -> s.Lists:
        """Every list with its latents, in the order in which they were added."""
        return s.Lists(lists=notebook.lists())

    @api.put("/lists/{name}/{latent}")
    def put(name: s.ListName, latent: s.Latent) -> s.Lists:
        """Put a latent on a list, which its first latent makes."""
        notebook.put(atlas.require(latent), name)
        return s.Lists(lists=notebook.lists())

    @api.delete("/lists/{name}/{latent}")
    def take(name: s.ListName, latent: s.Latent) -> s.Lists:
        """Take a latent off a list."""
        notebook.take(atlas.require(latent), name)
        return s.Lists(lists=notebook.lists())

    @api.get("/annotations")
    def everything() -> s.AnnotationsOut:
        """All labels, notes and lists, to keep or to share."""
        return s.AnnotationsOut(
            sae=notebook.sae, labels=notebook.read(), notes=notebook.notes(), lists=notebook.lists()
        )

    return api
