"""Tokens whose pieces join to the text, whatever the tokenizer and the script."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from monoscope.errors import InputError, ModelError
from monoscope.lm import HFModel
from monoscope.lm.tokens import Tokens, _ends

TEXTS = [
    "",
    "a",
    "the cat sat on the mat",
    "  leading and trailing   ",
    "def f(x):\n        return x\n\n\n",
    "café, naïve, Ünïcödé, e\u0301",
    "日本語のテキスト、漢字かな交じり文。",
    "emoji 😀👩\u200d👩\u200d👧 flags 🇫🇷 end",
    "עברית وعربي हिन्दी ไทย",
    "tabs\tand\r\nbreaks\x00and\x7fcontrol",
    "mixed 😀日本 and English " * 9,
]
CORPUS = ["the cat sat on the mat", "日本語のテキスト", "def f(x):\n    return x", "café naïve"] * 2


def byte_level(trim: bool) -> Any:
    """Byte-level BPE, with offsets trimmed of spaces by its post-processor or not."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def metaspace() -> Any:
    """As sentencepiece does it: spaces become U+2581, one in front, unknown characters in bytes."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=90, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *model["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: byte_level(False),
    "bytes, trimmed": lambda: byte_level(True),
    "metaspace": metaspace,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def check_pieces(tokens: Tokens) -> None:
    for text, encoded in zip(TEXTS, tokens.encode(TEXTS), strict=True):
        plain = tokens.hf(text, add_special_tokens=False)["input_ids"]
        assert encoded.ids == plain
        assert len(encoded.ends) == len(encoded.ids) and encoded.ends == sorted(encoded.ends)
        assert "".join(encoded.pieces(text)) == text


def test_pieces_join_to_the_text(tokenizer: Any) -> None:
    check_pieces(Tokens(tokenizer))


@pytest.mark.parametrize("trim", [True, False])
def test_each_piece_is_what_its_token_says(trim: bool) -> None:
    """Spaces stay with their token even where the tokenizer would trim them out of offsets."""
    tokens = Tokens(byte_level(trim))
    text = "def f(x):\n        return x  the cat   sat"
    encoded = tokens.encode([text])[0]
    assert encoded.pieces(text) == [tokens.decode([i]) for i in encoded.ids]


def test_a_character_cut_into_tokens_belongs_to_the_first_of_them() -> None:
    tokens = Tokens(byte_level(False))
    encoded = tokens.encode(["a😀b"])[0]
    assert encoded.pieces("a😀b") == ["a", "😀", "", "", "", "b"]
    assert tokens.decode(encoded.ids) == "a😀b"


def test_a_tokenizer_that_throws_text_away_still_covers_it() -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = Tokens(transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"))
    encoded = tokens.encode(["  Cat \t cat  \n"])[0]
    assert encoded.ids == [1, 1]
    assert encoded.pieces("  Cat \t cat  \n") == ["  Cat", " \t cat  \n"]


def test_offsets_that_step_back_or_run_over_are_put_in_order() -> None:
    assert _ends([2, 0, 5, 4, 9], 7) == [2, 2, 5, 5, 7]
    assert _ends([1, 2], 4) == [1, 4] and _ends([], 3) == []


def test_what_stands_before_a_text() -> None:
    assert Tokens(byte_level(False)).prefix_ids == ()
    tokens = Tokens(metaspace(), eos_ids=[7])
    assert tokens.prefix_ids == (1,)
    assert tokens.eos_ids == {2, 7} and tokens.special_ids == {0, 1, 2, 7}
    assert tokens.pad_id == 2  # no padding token of its own: the first end of text
    assert tokens.encode(["the cat"])[0].ids[0] != 1


def test_long_texts_raise_no_warning(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    short = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = 4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(Tokens(tokenizer).encode(["cat " * 50])[0].ids) > 4
    finally:
        tokenizer.model_max_length = short
    assert not caplog.records


def test_truncation_and_padding_set_elsewhere_do_not_reach_us() -> None:
    hf = byte_level(False)
    expected = Tokens(hf).encode(["the cat sat on the mat"])[0]
    tokens, before = Tokens(hf), Tokens(hf).fingerprint
    hf.backend_tokenizer.enable_truncation(2)
    hf.backend_tokenizer.enable_padding(length=99)
    assert tokens.encode(["the cat sat on the mat"])[0] == expected
    assert tokens.fingerprint == before


def test_the_fingerprint_tells_tokenizers_apart() -> None:
    prints = {Tokens(make()).fingerprint for make in MAKERS.values()}
    assert len(prints) == 3 and Tokens(metaspace()).fingerprint in prints


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(InputError, match="list of texts"):
        Tokens(metaspace()).encode("abc")


def test_vocabulary_entries_keep_their_space_and_show_bytes() -> None:
    meta = Tokens(metaspace())
    the = meta.encode(["the cat"])[0].ids
    assert "".join(meta.token_text(i) for i in the) == " the cat"
    assert meta.token_text(3 + 0xE2) == "<0xE2>"
    assert meta.token_text(1) == "<s>"
    level = Tokens(byte_level(True))
    assert "".join(level.token_text(i) for i in level.encode([" the cat é"])[0].ids) == " the cat é"
    smile = level.encode(["😀"])[0].ids
    assert "".join(level.token_text(i) for i in smile) == "<0xF0><0x9F><0x98><0x80>"
    assert level.token_text(10**6) == ""


# --- chat ---

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MESSAGES = [{"role": "user", "content": "the cat sat"}]


def test_chat_is_the_models_template_tokenised_once() -> None:
    hf = metaspace()
    hf.chat_template = TEMPLATE
    tokens = Tokens(hf)
    ids = tokens.chat(MESSAGES)
    assert ids.count(1) == 1 and ids[0] == 1
    assert ids == hf("<s>user: the cat sat\nassistant:", add_special_tokens=False)["input_ids"]
    hf.chat_template = "{{ bos_token }}" + TEMPLATE
    assert tokens.chat(MESSAGES) == ids


def test_chat_without_a_template_or_with_one_that_refuses() -> None:
    hf = metaspace()
    with pytest.raises(ModelError, match="no chat template"):
        Tokens(hf).chat(MESSAGES)
    hf.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="refused the messages: got roles must alternate"):
        Tokens(hf).chat(MESSAGES)


# --- tokenizers without offsets ---


class Slow:
    """A tokenizer as one written in Python looks: the same tokens, no offsets, no backend."""

    is_fast = False
    bos_token_id = pad_token_id = None

    def __init__(self, fast: Any, spoil: Callable[[str], str] = str) -> None:
        self.fast, self.spoil = fast, spoil
        self.eos_token_id = fast.eos_token_id
        self.all_special_ids = fast.all_special_ids
        self.added_tokens_decoder = fast.added_tokens_decoder

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return self.fast(text, add_special_tokens=add_special_tokens)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return list(self(text, add_special_tokens)["input_ids"])

    def decode(self, ids: list[int], **settings: Any) -> str:
        return self.spoil(self.fast.decode(ids, **settings))

    def get_vocab(self) -> dict[str, int]:
        return dict(self.fast.get_vocab())


def test_without_offsets_pieces_come_from_decoding() -> None:
    fast = byte_level(False)
    tokens = Tokens(Slow(fast))
    check_pieces(tokens)
    assert tokens.encode(["a😀b"])[0].pieces("a😀b") == ["a", "", "", "", "😀", "b"]
    assert len(tokens.fingerprint) == 64


def test_without_offsets_and_without_the_text_back_is_an_error() -> None:
    tokens = Tokens(Slow(byte_level(False), str.lower))
    with pytest.raises(ModelError, match=r"keeps no offsets.*got 'the cat'; expected 'The Cat'"):
        tokens.encode(["The Cat"])


def test_a_model_carries_its_tokenizers_words(tiny: Callable[..., HFModel]) -> None:
    lm = tiny("llama")
    assert lm.prefix_ids == () and lm.pad_id == 0 and lm.eos_ids == {1}
    assert lm.special_ids == {0, 1}
    text = "the cat 日本"
    assert lm.decode(lm.encode([text])[0].ids) == text
    assert set(lm.identity) == {"model", "weights", "tokenizer"}
    assert lm.identity["weights"] != tiny("qwen2").identity["weights"]
    assert lm.identity["tokenizer"] == tiny("qwen2").identity["tokenizer"]
