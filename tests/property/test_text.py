"""Incremental text equals the tokenizer's own decode, whatever the tokens; knows nothing of models."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from shard_runtime.spelling import Speller
from shard_runtime.text import IncrementalText, load_tokenizer
from tests.exact.models import EOS, make_tokenizer


@cache
def byte_level() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<tool>", special=False), AddedToken("naïve✓", special=False)])
    return tokenizer


@cache
def sentencepiece() -> Any:
    """As Llama 2 and Mistral: metaspace words, single bytes as a fallback."""
    words = ["▁the", "▁fox", "▁", "▁▁▁", "a", "b", "é", "世", "ing", ".", "▁sea", "🙂"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(
        models.BPE(
            {word: number for number, word in enumerate(vocabulary)},
            [],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def pushed(tokenizer: Any, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], IncrementalText]:
    """Every piece given out, the flush last."""
    text = IncrementalText(tokenizer, stop)
    return [*(text.push(token) for token in ids), text.flush()], text


def first_completed(text: str, stop: tuple[str, ...]) -> str:
    """The definition, character by character: the text before the stop string that completes first."""
    for end in range(1, len(text) + 1):
        found = [len(string) for string in stop if text[:end].endswith(string)]
        if found:
            return text[: end - max(found)]
    return text


@given(st.lists(st.integers(0, 321), max_size=60))
def test_any_byte_level_tokens_give_the_text_of_decode(ids: list[int]) -> None:
    pieces, text = pushed(byte_level(), ids)
    assert "".join(pieces) == text.text == decoded(byte_level(), ids)


@given(st.text(max_size=60))
def test_real_text_never_shows_a_broken_character(written: str) -> None:
    ids = byte_level().encode(written, add_special_tokens=False)
    pieces, text = pushed(byte_level(), ids)
    assert text.text == decoded(byte_level(), ids)
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in written


@given(st.lists(st.sampled_from([1, 2, *range(259, 271)]), max_size=40))
def test_sentencepiece_words_give_the_text_of_decode(ids: list[int]) -> None:
    pieces, text = pushed(sentencepiece(), ids)
    assert "".join(pieces) == text.text == decoded(sentencepiece(), ids)


@given(st.text(st.sampled_from("aé世🙂"), max_size=20))
def test_sentencepiece_byte_fallback_shows_whole_characters(written: str) -> None:
    ids = [3 + byte for byte in written.encode()]
    pieces, _ = pushed(sentencepiece(), ids)
    assert "".join(pieces) == written
    assert all("\ufffd" not in piece for piece in pieces)


@given(
    st.text(st.sampled_from("abé🙂 "), max_size=30),
    st.lists(st.text(st.sampled_from("abé🙂 "), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_are_cut_exactly_wherever_the_token_borders_lie(written: str, stops: list[str]) -> None:
    stop = tuple(stops)
    expected = first_completed(written, stop)
    whole = byte_level().encode(written, add_special_tokens=False)
    single_bytes = [byte_level().convert_tokens_to_ids(sign) for sign in byte_signs(written)]
    for ids in (whole, single_bytes):
        pieces, text = pushed(byte_level(), ids, stop)
        assert "".join(pieces) == text.text == expected
        assert text.stopped == (expected != written)


def byte_signs(written: str) -> list[str]:
    """The byte-level alphabet's sign for each UTF-8 byte, as the tokenizer itself spells it."""
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [sign for piece, _ in level.pre_tokenize_str(written) for sign in piece]


def test_after_a_stop_nothing_more_is_given_out() -> None:
    ids = byte_level().encode("one STOP two", add_special_tokens=False)
    pieces, text = pushed(byte_level(), [*ids, *ids], ("STOP",))
    assert text.stopped
    assert text.text == "".join(pieces) == "one "


def test_the_beginning_of_a_stop_string_is_held_back_and_shown_when_it_was_none() -> None:
    tokenizer = byte_level()
    text = IncrementalText(tokenizer, ["abX"])
    a, b, c = (tokenizer.convert_tokens_to_ids(sign) for sign in "abc")
    assert [text.push(a), text.push(b), text.push(c)] == ["", "", "abc"]


def test_special_tokens_have_no_text() -> None:
    tokenizer = byte_level()
    text = IncrementalText(tokenizer)
    assert text.push(tokenizer.convert_tokens_to_ids(EOS)) == ""
    assert text.flush() == text.text == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty stop"):
        IncrementalText(byte_level(), ["x", ""])


def test_a_tokens_cost_does_not_grow_with_the_text() -> None:
    """For the vocabulary kind that has to decode again: the tokens decoded per push stay few."""
    tokenizer = sentencepiece()
    seen: list[int] = []

    class Counted:
        added_tokens_decoder = tokenizer.added_tokens_decoder
        backend_tokenizer = tokenizer.backend_tokenizer

        def decode(self, ids: list[int], **options: Any) -> str:
            seen.append(len(ids))
            return str(tokenizer.decode(ids, **options))

    broken = 3 + 0xF0
    text = IncrementalText(Counted())
    for number in range(600):
        text.push(broken if 100 < number < 400 else 259 + number % 8)
    assert max(seen) <= 2 * 64


def test_the_tokenizer_of_a_directory_is_loaded_without_network_or_code(tmp_path: Any) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert decoded(tokenizer, tokenizer.encode("the fox 🙂", add_special_tokens=False)) == "the fox 🙂"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "<|begin|>user: hi<|end|>"


LETTERS = "abé🙂 世"
STOPS = st.lists(st.text(st.sampled_from(LETTERS), min_size=1, max_size=4), max_size=4)


@cache
def speller(of: Any) -> Speller:
    return Speller(of())


def spelt(of: Any, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, list[tuple[bytes, ...]]]:
    """The text shown, and what was spelled after each token, up to a stop string, and after the flush."""
    text = IncrementalText(of(), stop, speller(of))
    told: list[tuple[bytes, ...]] = []
    for token in ids:
        if text.stopped:
            break
        text.push(token)
        told.append(text.spelled())
        so_far = b"".join(piece for pieces in told for piece in pieces)
        assert text.text.encode().startswith(so_far) or "\ufffd" in text.text
    text.flush()
    told.append(text.spelled())
    return text.text, told


@given(st.text(st.sampled_from(LETTERS), max_size=30), STOPS)
def test_tokens_spell_exactly_what_is_shown(written: str, stops: list[str]) -> None:
    """Whole words, single bytes, stop strings anywhere: every token once, nothing of a stop string."""
    stop = tuple(stops)
    whole = byte_level().encode(written, add_special_tokens=False)
    single_bytes = [byte_level().convert_tokens_to_ids(sign) for sign in byte_signs(written)]
    fallback = [3 + byte for byte in written.lstrip(" ").encode()]
    for of, ids in ((byte_level, whole), (byte_level, single_bytes), (sentencepiece, fallback)):
        shown, told = spelt(of, ids, stop)
        assert shown == first_completed(decoded(of(), ids), stop)
        pieces = [piece for some in told for piece in some]
        assert b"".join(pieces).decode() == shown
        assert len(pieces) == len(told) - 1
        for number, piece in enumerate(pieces):
            assert speller(of).spell(ids[number]).startswith(piece)


@given(st.lists(st.integers(0, 321), max_size=40), STOPS)
def test_any_byte_level_tokens_are_spelled_once_each(ids: list[int], stops: list[str]) -> None:
    """Broken UTF-8 too: the tokens' bytes, read as the text is, are the text."""
    shown, told = spelt(byte_level, ids, tuple(stops))
    pieces = [piece for some in told for piece in some]
    assert len(pieces) == len(told) - 1
    if shown == first_completed(decoded(byte_level(), ids), ()):
        assert b"".join(pieces).decode(errors="replace") == shown


@given(st.lists(st.sampled_from([1, 2, *range(259, 271), 3 + 0xF0, 3 + 0x9F, 3 + 0x41]), max_size=40), STOPS)
def test_any_sentencepiece_tokens_are_spelled_once_each(ids: list[int], stops: list[str]) -> None:
    shown, told = spelt(sentencepiece, ids, tuple(stops))
    pieces = [piece for some in told for piece in some]
    assert len(pieces) == len(told) - 1
    if "\ufffd" not in shown:
        assert b"".join(pieces).decode() == shown


def test_a_character_of_several_tokens_is_spelled_when_it_is_shown() -> None:
    ids = [byte_level().convert_tokens_to_ids(sign) for sign in byte_signs("🙂!")]
    _, told = spelt(byte_level, ids)
    assert told == [(), (), (), (b"\xf0", b"\x9f", b"\x99", b"\x82"), (b"!",), ()]


def test_a_token_that_a_stop_string_cuts_keeps_what_is_shown_of_it() -> None:
    tokenizer = byte_level()
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("Ġfox", "ju", "mps", "Ġo")]
    shown, told = spelt(byte_level, ids, ("ps o",))
    assert shown == " foxjum"
    assert told == [(b" fox",), (b"ju",), (), (b"m", b""), ()]


def test_special_tokens_give_nothing_to_the_text_and_have_their_name_among_the_likely() -> None:
    end = byte_level().convert_tokens_to_ids(EOS)
    _, told = spelt(byte_level, [end])
    assert [piece for some in told for piece in some] == [b""]
    assert speller(byte_level).spell(end) == EOS.encode()


def test_a_word_among_the_likely_keeps_its_space() -> None:
    assert speller(sentencepiece).spell(259) == b" the"
    assert speller(sentencepiece).spell(3 + 0xE4) == b"\xe4"
