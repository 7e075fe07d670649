"""Texts of messages, headers and errors are shown on the terminal, and never obeyed by it."""

from __future__ import annotations

import json

import pytest

from meshhook.cli.app import run
from meshhook.cli.bodies import print_body, print_text
from meshhook.cli.failures import describe
from meshhook.cli.output import Column, note, print_fields, print_json, print_table, say
from meshhook.errors import MeshHookError

HOSTILE = "\x1b]52;c;cm0=\x07\u202e\x85\u2028\U000e0041\x7f[red]x[/red]\nsecond"
SEEN = "\\x1b]52;c;cm0=\\x07\\u202e\\x85\\u2028\\U000e0041\\x7f[red]x[/red]"


def test_the_names_of_headers_are_escaped(cli, jobs, sql, dead_letters):
    """So are their values; anybody who sends messages can choose both."""
    headers = json.dumps({HOSTILE: {"a": HOSTILE}, "plain": "日本"})
    sql("update pgmq.q_jobs_dlq set headers = $1::jsonb", headers)
    shown = cli.ok("dlq", "show", jobs, str(dead_letters[0])).out
    assert f"header {SEEN}\\nsecond" in shown
    assert "日本" in shown
    assert shown.replace("\n", "").isprintable()
    as_json = cli.ok("dlq", "show", jobs, str(dead_letters[0]), "--json")
    assert as_json.json["headers"][HOSTILE] == {"a": HOSTILE}
    assert as_json.out.replace("\n", "").isprintable()


def test_a_table_and_fields_have_one_line_a_value(capsys):
    """Markup is shown as text, and line feeds are escaped."""
    print_table([Column("A"), Column("B")], [[HOSTILE, "b"]])
    print_fields([(HOSTILE, HOSTILE)])
    _, row, field = capsys.readouterr().out.splitlines()
    assert row.split() == [SEEN + "\\nsecond", "b"]
    assert field.split() == [SEEN + "\\nsecond"] * 2


def test_a_long_value_is_cut_with_how_much(capsys):
    """Names and values say how much was cut."""
    print_fields([("n" * 10_000, "v" * 1_000_000)])
    shown = capsys.readouterr().out
    assert len(shown) < 2_500
    assert " more characters)" in shown.split("  ")[0]
    assert shown.rstrip().endswith(" more characters)")


@pytest.mark.parametrize("tell", [say, note])
def test_a_sentence_about_something_of_others_is_escaped(capsys, tell):
    """Both on standard output and on standard error."""
    tell(HOSTILE)
    out, err = capsys.readouterr()
    assert out + err == f"{SEEN}\nsecond\n"


def test_an_error_is_escaped_and_cut(capsys):
    """A server can put anything into its errors."""
    assert describe(MeshHookError(HOSTILE)) == f"error: {SEEN}\nsecond"
    assert len(describe(MeshHookError("x" * 10**6))) < 2_100


def test_the_trace_of_a_fault_is_escaped(capsys, monkeypatch):
    """Tracebacks are printed with MESHHOOK_LOG_LEVEL=debug."""
    monkeypatch.setenv("MESHHOOK_LOG_LEVEL", "debug")
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", "postgresql://127.0.0.1:1/name")

    def fail(*_: object) -> None:
        raise RuntimeError(HOSTILE)

    monkeypatch.setattr("meshhook.cli.connecting.log_to_stderr", fail)
    assert run(["queue", "list"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.replace("\n", "").isprintable()


def test_json_is_exact_and_only_shown(capsys):
    """Control characters are escaped as JSON does it."""
    value = {HOSTILE: [HOSTILE, "\ud800", "👩\u200d👧 日本"]}
    print_json(value)
    shown = capsys.readouterr().out
    assert json.loads(shown) == value
    assert "👩\u200d👧 日本" in shown
    assert shown.replace("\n", "").replace("\u200d", "").isprintable()


@pytest.mark.parametrize(
    "body",
    [
        '{"n": 1e400, "z": -0.0, "d": 12345678901234567890.12345678901234567890}',
        '["a, b: {c}", [], {}, {"a": []}, "\\"", "\\\\"]',
        '"text"',
        "7",
    ],
)
def test_a_body_is_shown_as_it_is_stored(capsys, body):
    """Only whitespace changes; numbers stay as they are written."""
    print_body(body)
    shown = capsys.readouterr().out.removeprefix("body\n")
    assert json.loads(shown, parse_float=str) == json.loads(body, parse_float=str)


def test_a_body_is_indented(capsys):
    """The layout is that of other programs."""
    value = {"a": [1, {"b": {}}], "c": []}
    print_body(json.dumps(value))
    shown = capsys.readouterr().out.removeprefix("body\n")
    assert shown.replace("\n  ", "\n")[2:] == json.dumps(value, indent=2) + "\n"


def test_a_body_of_any_depth_and_length_is_cut(capsys):
    """The cut says how much is missing."""
    for body in ("[" * 100_000 + "]" * 100_000, '"' + "x" * 10**6 + '"', "[" + "1," * 10**6 + "1]"):
        print_body(body)
        shown = capsys.readouterr().out
        assert len(shown) < 6_000
        last = shown.splitlines()[-1]
        assert 0.98 * len(body) < int(last.split()[1].replace(",", "")) < len(body)


def test_a_body_that_is_not_json_is_shown_all_the_same(capsys):
    """All of it is shown, and escaped."""
    print_body('{"a": \x1b[31m} ]]] "open')
    shown = capsys.readouterr().out
    assert "\\u001b" in shown
    assert '"open' in shown


def test_a_stack_keeps_its_lines(capsys):
    """Escapes in its source code stay as they are."""
    print_text('  x = "\\n"\x1b[31m\n  y')
    assert capsys.readouterr().out == '    x = "\\n"\\x1b[31m\n    y\n'
