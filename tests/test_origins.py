"""Which pages may: exactly those that were named, and those of this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.api.cors import is_preflight, preflight_lines
from slotwise.origins import ALLOWED, Origins

HERE = "localhost:11435"


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:8443",
        "http://127.0.0.1:5173",
        "http://[::1]:80",
        "HTTP://LocalHost:3000",
        "http://tauri.localhost",
        "app://obsidian.md",
        "tauri://localhost",
        "file://",
        "vscode-webview://1a2b3c",
    ],
)
def test_what_is_on_this_machine_may(origin: str) -> None:
    assert Origins().allow(origin, HERE)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "http://evil.example",
        "http://localhost.evil.example",
        "http://evil.example:11435",
        "http://evillocalhost",
        "http://localhost@evil.example",
        "http://localhost:3000@evil.example",
        "http://localhost/",
        "http://localhost:3000/x",
        "http://localhost:3000 http://evil.example",
        "http://127.0.0.1.nip.io",
        "http://127.0.0.10.evil",
        "http://[::2]:80",
        "chrome-extension://abcdef",
        "javascript:alert(1)",
        "http://\xff",
        "*",
    ],
)
def test_other_pages_may_not(origin: str) -> None:
    assert not Origins().allow(origin, HERE)


def test_a_page_that_the_server_itself_has_served_may() -> None:
    origins = Origins()

    assert origins.allow("https://models.example", "models.example")
    assert origins.allow("http://models.example:11435", "Models.Example:11435")
    assert not origins.allow("http://models.example", "models.example:11435")
    assert not origins.allow("http://models.example", "")
    assert not origins.allow("null", "null")
    assert not origins.allow("chrome-extension://abc", "abc"), "it has served no extension"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (
            "https://chat.example",
            ["https://chat.example", "https://CHAT.example"],
            ["http://chat.example", "https://chat.example:8443", "https://x.chat.example", "https://chat.example.evil"],
        ),
        (
            "https://chat.example:8443",
            ["https://chat.example:8443"],
            ["https://chat.example", "https://chat.example:844"],
        ),
        ("http://chat.example:*", ["http://chat.example", "http://chat.example:1"], ["http://chat.example.evil:1"]),
        (
            "https://*.example",
            ["https://a.example", "https://a.b.example"],
            ["https://example", "https://evilexample", "https://a.example.evil", "https://a.example:81"],
        ),
        ("chrome-extension://*", ["chrome-extension://abc"], ["moz-extension://abc", "http://abc"]),
        ("http://*", ["http://any.example", "http://any.example:99"], ["https://any.example"]),
        ("https://chat.example/", ["https://chat.example"], ["https://chat.example/"]),
        ("*", ["https://any.example", "null", "x"], []),
    ],
)
def test_a_pattern_means_what_it_says(pattern: str, matching: list[str], others: list[str]) -> None:
    origins = Origins([pattern])

    assert [one for one in matching if not origins.allow(one, HERE)] == []
    assert [one for one in others if origins.allow(one, HERE)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "localhost", "chat.example", "https://", "https://*evil.example", "https://a.*.example", "https://*.*"),
        *("https://localhost*", "https://a/b", "https://a:x", "https://a:123456", "**", "null", "https://a b", "://a"),
    ],
)
def test_what_is_no_origin_is_refused_with_what_is_allowed(pattern: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        Origins([pattern])

    assert ALLOWED in str(caught.value)


@given(st.text(max_size=40), st.text(max_size=20))
def test_nothing_but_what_was_named_may(origin: str, host: str) -> None:
    """Whatever is sent: an answer, and never yes to another host."""
    allowed = Origins(["https://chat.example"]).allow(origin, host)

    assert not allowed or "://" in origin


LABEL = st.from_regex(r"[a-z0-9_-]{1,10}", fullmatch=True)


@given(st.lists(LABEL, min_size=1, max_size=4), st.lists(LABEL, min_size=1, max_size=4))
def test_a_name_below_another_is_told_from_one_that_only_ends_like_it(above: list[str], name: list[str]) -> None:
    origins = Origins([f"https://*.{'.'.join(above)}"])
    below = len(name) > len(above) and name[-len(above) :] == above

    assert origins.allow(f"https://{'.'.join(name)}", HERE) == (below or name[-1] == "localhost")


@given(st.lists(st.text(max_size=20), max_size=100))
def test_no_header_is_allowed_that_could_break_the_line(names: list[str]) -> None:
    asked = ",".join(names).encode("utf-8", "ignore")
    lines = preflight_lines({b"access-control-request-headers": asked})

    for name, value in lines:
        assert b"\r" not in value, name
        assert b"\n" not in value, name
        assert value


def test_only_a_browsers_question_is_one() -> None:
    headers = {b"origin": b"https://a", b"access-control-request-method": b"POST"}

    assert is_preflight("OPTIONS", headers)
    assert not is_preflight("POST", headers)
    assert not is_preflight("OPTIONS", {b"origin": b"https://a"})
