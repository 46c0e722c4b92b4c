"""Text to tokens and back, around a Hugging Face tokenizer, with pieces that join to the text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from monoscope.errors import InputError, ModelError
from monoscope.lm.protocol import Encoded

_REPLACEMENT = "\ufffd"


class Tokens:
    """A tokenizer as the house uses it; `hf` is the Hugging Face tokenizer it wraps."""

    def __init__(self, hf: Any, eos_ids: Iterable[int] = ()) -> None:
        self.hf = hf
        ends = {hf.eos_token_id, *eos_ids} - {None}
        self.eos_ids = frozenset(int(i) for i in ends)
        self.prefix_ids = self._prefix()
        control = {i for i, token in hf.added_tokens_decoder.items() if token.special}
        known = {hf.bos_token_id, hf.pad_token_id} - {None}
        self.special_ids = frozenset({*hf.all_special_ids, *control, *known, *self.eos_ids})
        pad = hf.pad_token_id if hf.pad_token_id is not None else min(self.eos_ids, default=0)
        self.pad_id = int(pad)

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts as tokens, no special tokens added; the pieces of each join to its text.

        Raises ModelError for a tokenizer without offsets whose tokens do not decode to the text.
        """
        if isinstance(texts, str):
            raise InputError("encode takes a list of texts", got="one string", expected="[text, …]")
        if not self.hf.is_fast:
            return [self._encode_slowly(text) for text in texts]
        encodings = self._offsets_backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            Encoded(list(e.ids), _ends((end for _, end in e.offsets), len(text)))
            for e, text in zip(encodings, texts, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text, special tokens included."""
        ids = [int(i) for i in ids]
        text = self.hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def token_text(self, token_id: int) -> str:
        """One vocabulary entry: its text, or its bytes as <0x…> where they are no whole text."""
        raw = self.hf.convert_ids_to_tokens(int(token_id))
        if raw is None:
            return ""
        if "\u2581" in raw:  # how sentencepiece writes a space; decoding alone would drop it
            return str(raw).replace("\u2581", " ")
        text = self.decode([token_id])
        if text and _REPLACEMENT not in text:
            return text
        data = [_BYTE_OF.get(char) for char in raw]
        if not raw.isascii() and None not in data:  # part of a character in byte-level BPE
            return "".join(f"<0x{byte:02X}>" for byte in data)
        return str(raw)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """A conversation in the model's own template, tokenised once, ready for its answer.

        Raises ModelError where there is no template, InputError where it refuses the messages.
        """
        if not getattr(self.hf, "chat_template", None):
            raise ModelError(
                "the model has no chat template", hint="Use plain text prompts with this model."
            )
        try:
            text = self.hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except ImportError as error:
            raise ModelError("chat templates need the package jinja2", got=error) from error
        except Exception as error:  # templates raise whatever they like
            raise InputError("the model's chat template refused the messages", got=error) from error
        ids = self.encode([text])[0].ids
        bos = self.hf.bos_token_id
        while bos is not None and ids[:2] == [bos, bos]:
            del ids[0]
        return ids

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer as its backend writes it down (vocabulary, merges, rules)."""
        if self.hf.is_fast:
            form = json.loads(self.hf.backend_tokenizer.to_str())
            form["truncation"] = form["padding"] = None  # these two change with use
        else:
            form = {"vocab": self.hf.get_vocab(), "class": type(self.hf).__name__}
        return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _offsets_backend(self) -> Any:
        """The same tokenizer without its post-processor, which may trim spaces out of offsets."""
        from tokenizers import Tokenizer

        form = json.loads(self.hf.backend_tokenizer.to_str())
        form["post_processor"] = form["truncation"] = form["padding"] = None
        return Tokenizer.from_str(json.dumps(form))

    def _prefix(self) -> tuple[int, ...]:
        """What stands before a text's own tokens when the tokenizer adds its special tokens."""
        probe = "a"
        bare = self.hf(probe, add_special_tokens=False)["input_ids"]
        full = self.hf(probe, add_special_tokens=True)["input_ids"]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(int(i) for i in full[:start])
        raise ModelError(
            "the tokenizer changes a text's tokens when it adds special tokens",
            got=full,
            expected=bare,
        )

    def _encode_slowly(self, text: str) -> Encoded:
        """Ends from decoding ever longer prefixes, for tokenizers that keep no offsets."""
        ids = [int(i) for i in self.hf.encode(text, add_special_tokens=False)]
        if self.decode(ids) != text:
            raise ModelError(
                "this slow tokenizer keeps no offsets and does not decode to the text it read",
                got=repr(self.decode(ids)[:40]),
                expected=repr(text[:40]),
                hint="Load the model with a fast tokenizer (tokenizer.json).",
            )
        prefixes = (self.decode(ids[: i + 1]) for i in range(len(ids)))
        return Encoded(ids, _ends((_common(prefix, text) for prefix in prefixes), len(text)))


def _ends(ends: Iterable[int], length: int) -> list[int]:
    """Never falling, never past the text, and the last one at its end."""
    out: list[int] = []
    for end in ends:
        out.append(min(max(end, out[-1] if out else 0), length))
    if out:
        out[-1] = length
    return out


def _common(a: str, b: str) -> int:
    """Length of the longest common prefix."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE: printable Latin-1 is itself, the rest go from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()
