"""The key goes to the configured origin only, and no id can lead a request elsewhere."""

import pytest

from prefect_cometapi.errors import ConfigurationError, InvalidInput
from prefect_cometapi.urls import (
    DEFAULT_API_ROOT,
    cancel_url,
    check_model,
    check_prediction_id,
    create_url,
    is_loopback,
    parse_api_root,
    query_url,
    redact,
    strip_around,
)

SECRET = "hunter2"
PUBLIC = "https://api.cometapi.com"
LOCAL = "http://127.0.0.1:8123"

# --- API roots --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "root"),
    [
        (DEFAULT_API_ROOT, "https://api.cometapi.com"),
        ("https://api.cometapi.com/", "https://api.cometapi.com"),
        ("https://api.cometapi.com///", "https://api.cometapi.com"),
        ("https://api.cometapi.com/v1", "https://api.cometapi.com"),
        ("https://api.cometapi.com/v1/", "https://api.cometapi.com"),
        ("https://api.cometapi.com//v1//", "https://api.cometapi.com"),
        ("https://gate.example/comet/v1", "https://gate.example/comet"),
        ("https://gate.example/comet/", "https://gate.example/comet"),
        ("https://gate.example/xv1", "https://gate.example/xv1"),
        ("https://gate.example/v1/comet", "https://gate.example/v1/comet"),
        ("https://gate.example/v10", "https://gate.example/v10"),
        ("HTTPS://API.CometAPI.com/Path", "https://api.cometapi.com/Path"),
        ("https://gate.example:8443/v1", "https://gate.example:8443"),
        ("https://[2001:db8::1]:8443/v1", "https://[2001:db8::1]:8443"),
        ("\ufeffhttps://api.cometapi.com/v1\r\n", "https://api.cometapi.com"),
        (" \t\u00a0\u200bhttps://api.cometapi.com \ufeff", "https://api.cometapi.com"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://LocalHost.:8000", "http://localhost.:8000"),
        ("http://comet.localhost", "http://comet.localhost"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://127.1:8000", "http://127.1:8000"),
        ("http://127.99.0.7", "http://127.99.0.7"),
        ("http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]"),
    ],
)
def test_api_root(base_url: str, root: str) -> None:
    assert parse_api_root(base_url) == root
    assert parse_api_root(root) == root, "parsing twice changes nothing"


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.cometapi.com",
        "//api.cometapi.com",
        "ftp://api.cometapi.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://:443",
        "https://host:99999",
        "https://host:port",
        "https://[::1",
        "https://host?x=1",
        "https://host/v1?x=1",
        "https://host#x",
        "https://ho st",
        "https://host/a b",
        "https://host/a\nb",
        "https://host\\@evil.example",
        "https://host/\x00",
        f"https://user:{SECRET}@api.cometapi.com",
        f"https://{SECRET}@api.cometapi.com",
        f"https://:{SECRET}@api.cometapi.com",
        "https://@api.cometapi.com",
        # With a second mistake beside the password, which may be seen first.
        f"https://user:{SECRET}@host:99999",
        f"https://user:{SECRET}@[bad",
        f"https://user:{SECRET}@",
        f"ftp://user:{SECRET}@host",
        f"//user:{SECRET}@host",
        f"user:{SECRET}@host",
        f"http://user:{SECRET}@host",
        f"https://user:{SECRET}@host?x=1",
        f"https://host?key={SECRET}",
    ],
)
def test_unusable_base_urls(base_url: str) -> None:
    for allow_insecure in (False, True):
        with pytest.raises(ConfigurationError) as caught:
            parse_api_root(base_url, allow_insecure=allow_insecure)
        assert SECRET not in str(caught.value)


#: Hosts that are not this machine, however much they look like it.
FOREIGN = [
    "api.cometapi.com",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "localhost-example.com",
    "mylocalhost",
    "10.0.0.5",
    "128.0.0.1",
    "0.0.0.0",  # noqa: S104
    "[2001:db8::1]",
    "[::ffff:10.0.0.5]",
    "simulator.internal",
]


@pytest.mark.parametrize("host", ["127.0.0.1%2eexample.com", "127。0。0。1"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_a_library_may_read_differently_is_refused(host: str, scheme: str) -> None:
    with pytest.raises(ConfigurationError, match="not an http"):
        parse_api_root(f"{scheme}://{host}", allow_insecure=True)


@pytest.mark.parametrize("host", FOREIGN)
def test_the_key_goes_to_no_foreign_host_unencrypted(host: str) -> None:
    base_url = f"http://{host}:8000"
    with pytest.raises(ConfigurationError, match="unencrypted"):
        parse_api_root(base_url)
    assert parse_api_root(base_url, allow_insecure=True) == base_url
    assert parse_api_root(f"https://{host}") == f"https://{host}"


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        *((host.strip("[]"), False) for host in FOREIGN),
        *((host, True) for host in ("localhost", "LOCALHOST", "localhost.", "a.b.localhost")),
        *((host, True) for host in ("127.0.0.1", "127.0.0.1.", "127.255.255.254", "::1")),
        *((host, True) for host in ("127.1", "127.0.1", "2130706433", "0x7f000001", "0177.0.0.1")),
        *((host, True) for host in ("0x7f.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "0:0::1")),
        *((host, False) for host in ("", ".", "127", "::2", "::", "2130706434.5.6.7.8")),
        # A relay or a translator on the way is not this machine.
        *((host, False) for host in ("2002:7f00:1::", "64:ff9b::127.0.0.1", "::127.0.0.1")),
    ],
)
def test_is_loopback(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


# --- ids --------------------------------------------------------------------------------------

TRICKS = [
    "",
    ".",
    "..",
    "../..",
    "../../v1/models",
    "a/../b",
    "a/b/c",
    "/a",
    "a/",
    "a//b",
    "//evil.example/x",
    "https://evil.example",
    "a%2f..%2fb",
    "a?b=c",
    "a/b?c",
    "a#b",
    "a/b#c",
    "a\\b",
    "a b",
    " a/b",
    "a/b\n",
    "abc\n",
    "a/b\x00",
    "a/b:version",
    "a@b/c",
    "é/ü",
    "a/b\uff0fc",
]
NO_TEXT: list[object] = [None, 5, True, b"a/b", ["a/b"], {"id": "a"}]


@pytest.mark.parametrize("given", [*TRICKS, "abc", "a/..", "../b", "a/b..c", ".a/b", "-a/b"])
def test_no_model_id(given: str) -> None:
    for use in (check_model, lambda model: create_url(PUBLIC, model)):
        with pytest.raises(InvalidInput, match="owner/name"):
            use(given)


@pytest.mark.parametrize("given", [*TRICKS, "a/b", "a.b", "x" * 129, "é", "\u0661"])
def test_no_prediction_id(given: str) -> None:
    for use in (check_prediction_id, lambda given: query_url(PUBLIC, given)):
        with pytest.raises(InvalidInput, match="not a prediction id"):
            use(given)
    with pytest.raises(InvalidInput):
        cancel_url(PUBLIC, given)


@pytest.mark.parametrize("given", NO_TEXT, ids=repr)
def test_ids_are_text(given: object) -> None:
    for check in (check_model, check_prediction_id):
        with pytest.raises(InvalidInput):
            check(given)


def test_a_long_id_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_prediction_id("é" * 10_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "model",
    [
        "black-forest-labs/flux-schnell",
        "black-forest-labs/flux-2-pro",
        "stability-ai/sdxl",
        "Owner_1/Name.v2-x",
        "a/b",
    ],
)
def test_create_url_keeps_the_slash_raw(model: str) -> None:
    assert create_url(PUBLIC, model) == f"{PUBLIC}/replicate/v1/models/{model}/predictions"


@pytest.mark.parametrize("id", ["q4chw5rey9rmt0cww76t4h3ma4", "A-b_9", "x" * 128])
def test_query_and_cancel_urls(id: str) -> None:
    assert query_url(PUBLIC, id) == f"{PUBLIC}/replicate/v1/predictions/{id}"
    assert cancel_url(PUBLIC, id) == f"{PUBLIC}/replicate/v1/predictions/{id}/cancel"


# --- shown to people --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://replicate.delivery/a/b.webp", "https://replicate.delivery/a/b.webp"),
        (f"https://h.example/a?sig={SECRET}", "https://h.example/a"),
        (f"https://h.example/a#{SECRET}", "https://h.example/a"),
        (f"https://user:{SECRET}@h.example:8443/a", "https://h.example:8443/a"),
        (f"https://{SECRET}@h.example/a", "https://h.example/a"),
        (f"https://user:{SECRET}@[::1]:8443/a?{SECRET}", "https://[::1]:8443/a"),
        (f"https://user:{SECRET}@h.example:99999/a", "(a URL that can not be read)"),
        (f"https://user:{SECRET}@[bad/a", "(a URL that can not be read)"),
        (f"//user:{SECRET}@h.example/a", "//h.example/a"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


@pytest.mark.parametrize("around", ["", " ", "\ufeff", "\r\n", "\t\v\f", "\u00a0", " \ufeff\n"])
def test_strip_around(around: str) -> None:
    assert strip_around(f"{around}sk a\ufeffb{around}") == "sk a\ufeffb"
