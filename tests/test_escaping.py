"""Texts of others as they are shown: visible, told apart, read back; ordinary text untouched."""

from __future__ import annotations

import ast
import json
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshhook.escaping import MIN_LIMIT, quoted, shown, shown_json, shown_sentence

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60) | st.text(
    st.sampled_from(
        "\\nrtxuU0aF\n\x1b\u202e\u200d\ufe0f\U000e0041\ud800👩\u0627\ue0ff\u3099\u1820\u180b"
    ),
    max_size=30,
)

ATTACKS = {
    "colours": "\x1b[31mred",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "link": "\x1b]8;;http://a\x1b\\b",
    "C1": "\x9b2J\x85\x90",
    "DEL": "a\x7f",
    "NUL": "\x00",
    "line breaks": "a\nb\rc\x0bd\x0ce\x1cf\u2028g\u2029h\x85i",
    "bidi": "\u202aa\u202bb\u202dc\u202ed\u202c",
    "isolates": "\u2066a\u2067b\u2068c\u2069\u200e\u200f\u061c",
    "unseen": "a\u200bb\u2060c\ufeffd\u00ade\u034ff\u3164g\u2800h",
    "joiners": "admin\u200d \u200cx",
    "tags": "a\U000e0041\U000e007f",
    "hidden in selectors": "a\ufe01b\ufe0f\ufe0e\U000e0100",
    "surrogates": "\ud83d \udc00",
    "private": "\ue000\U000f0000",
    "no characters": "\ufffe\uffff\U0010ffff",
}
ORDINARY = {
    "ASCII": "plain text, [red]markup[/red] C:\\dir 100%",
    "German": "Grüße, Straße",
    "French": "12\u202f000\u00a0€",
    "Arabic": "السلام عليكم \u0661\u0662",
    "Persian": "می\u200cخواهم",  # noqa: RUF001 - the same
    "Hebrew": "שָׁלוֹם",
    "Devanagari": "क्\u200dष श्रीमान",
    "Sinhala": "ශ්\u200dරී",
    "Thai": "สวัสดี",
    "Vietnamese": "Tiê\u0301ng Viê\u0323t",
    "Chinese": "日本 中文\u3000𠮷",
    "variant ideograph": "葛\U000e0100",
    "Korean": "한국어",
    "emoji": "😀 👩\u200d👩\u200d👧 👍🏽 ❤\ufe0f 🏳\ufe0f\u200d🌈 1\ufe0f⃣ 🇩🇪 🫨",
    "combining": "e\u0301 a\u0308\u0304",
    "mathematics": "∑ ≤ → ⟨x⟩ 𝒜",  # noqa: RUF001 - the same
}


def read_back(text: str) -> str:
    """Return the text that was shown so."""
    return re.sub(
        r"\\(?:[nrt\\]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})",
        lambda match: ast.literal_eval(f"'{match[0]}'"),
        text,
    )


def acts(character: str) -> bool:
    """Say whether a character is a control, turns the reading order, or is half a character."""
    is_joiner = character in "\u200c\u200d"
    is_sign = unicodedata.name(character, "").startswith(("ARABIC", "SYRIAC", "KAITHI"))
    return not is_joiner and (
        unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
        or (unicodedata.category(character) == "Cf" and (not is_sign or character == "\u061c"))
    )


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS)
def test_what_acts_or_is_not_seen_is_escaped(text):
    """Whatever is no ASCII in these is in escapes."""
    for safe in (shown(text), shown_sentence(text, lines=False)):
        assert safe.isascii()
        assert safe.isprintable()


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_text_stays_as_it_is(text):
    """In every script."""
    assert shown(text) == shown_sentence(text) == text
    assert shown_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("a\u202eb", "a\\u202eb"),
        ("\U000e0041", "\\U000e0041"),
        ("\\x1b", "\\\\x1b"),
        ("\\\x1b", "\\\\\\x1b"),
        ("\\d \\", "\\d \\"),
    ],
)
def test_the_escapes_are_those_of_python(text, safe):
    """And a backslash is doubled only where it would read as one."""
    assert shown(text) == safe


@given(ANY_TEXT)
@example("\\")
@example("\u1820\u200d\u180b")
def test_a_text_can_be_read_back(text):
    """So that no two texts are shown as the same one."""
    assert read_back(shown(text)) == text
    assert read_back(shown(text, lines=True)) == text


@given(ANY_TEXT)
def test_nothing_that_is_shown_acts(text):
    """Also where line feeds stay, and in a sentence."""
    for safe in (shown(text), shown_sentence(text, lines=False), quoted(text), quoted([text])):
        assert not any(map(acts, safe))
        assert len(safe.splitlines()) <= 1
    for lines in (shown(text, lines=True), shown_sentence(text)):
        assert not any(map(acts, lines.replace("\n", "")))


@given(ANY_TEXT)
@example("\uefff\ufe0f")
def test_a_sentence_is_escaped_once(text):
    """However often it goes through."""
    safe = shown_sentence(text)
    assert shown_sentence(safe) == safe
    assert shown_sentence(shown(text)) == shown(text)


@given(ANY_TEXT, st.integers(MIN_LIMIT, 90))
def test_a_long_text_is_cut_and_says_by_how_much(text, limit):
    """What comes out never exceeds the limit."""
    safe = shown(text, limit=limit)
    assert len(safe) <= limit
    if cut := re.search(r"… \((\d+) more characters\)\Z", safe):
        kept = read_back(safe[: cut.start()])
        assert kept == text[: len(kept)]
        assert len(kept) + int(cut[1]) == len(text)
    else:
        assert safe == shown(text)


def test_a_huge_text_is_cut_before_it_is_looked_at():
    """A limit bounds the work as well."""
    text = "\x1b" * 50_000_000
    assert shown(text, limit=100).endswith("… (49999984 more characters)")


@given(st.recursive(ANY_TEXT, lambda inner: st.dictionaries(ANY_TEXT, inner) | st.lists(inner)))
def test_json_says_the_same_and_only_shows(value):
    """With keys and values of any text; indented, too."""
    for document in (
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, ensure_ascii=False, indent=2),
    ):
        safe = shown_json(document)
        assert json.loads(safe) == json.loads(document)
        assert not any(map(acts, safe.replace("\n", "")))


class Hostile:
    """What fails when it is shown."""

    def __repr__(self):
        """Fail."""
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a'b", '"a\'b"'),
        ("a\x1b\u3164", "'a\\x1b\\u3164'"),
        (None, "None"),
        (1.5, "1.5"),
        (7, "7"),
        (10**5000, "<int of 16610 bits>"),
        (b"\x00", "b'\\x00'"),
        ([1, {"a": (2,)}], "[1, {'a': (2,)}]"),
    ],
    ids=["text", "odd text", "None", "float", "int", "huge int", "bytes", "nested"],
)
def test_a_wrong_value_is_quoted_like_repr(value, text):
    """Controls and what is unseen are escaped."""
    assert quoted(value) == text


@pytest.mark.parametrize(
    "value",
    [Hostile(), [Hostile()], "x" * 10**6, ["x" * 10**6] * 999, 10**300, {1: {2: {3: "y" * 999}}}],
    ids=["hostile", "hostile within", "text", "texts", "number", "nested"],
)
def test_a_quoted_value_is_short(value):
    """Whatever it is."""
    assert len(quoted(value)) <= 200
