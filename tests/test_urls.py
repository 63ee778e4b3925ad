"""The key goes to the configured origin only and in no other form than it was meant; outputs come
from public hosts over https; and no id can lead a request elsewhere.
"""

import pytest

from prefect_cometapi.errors import ConfigurationError, InvalidInput, OutputRefused
from prefect_cometapi.urls import (
    DEFAULT_API_ROOT,
    cancel_url,
    check_address,
    check_download,
    check_model,
    check_prediction_id,
    create_url,
    is_configured,
    is_loopback,
    parse_api_root,
    parse_hosts,
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


# --- downloads --------------------------------------------------------------------------------

#: URL of an output, API root.
FETCHED = [
    ("https://replicate.delivery/xezq/abc/out-0.webp", PUBLIC),
    ("https://pbxt.replicate.delivery/a?sig=1#x", PUBLIC),
    ("https://replicate.delivery:8443/a", PUBLIC),
    ("HTTPS://REPLICATE.delivery/a", PUBLIC),
    ("https://8.8.8.8/a", PUBLIC),
    ("https://[2606:4700::1111]/a", PUBLIC),
    ("https://localhost.example.com/a", PUBLIC),
    ("https://127.0.0.1.example.com/a", PUBLIC),
    ("https://api.cometapi.com/files/a", PUBLIC),
    ("https://replicate.delivery/a", LOCAL),
    ("http://127.0.0.1:8123/files/a", LOCAL),
    ("http://127.0.0.1:9000/a", LOCAL),
    ("https://localhost:9000/a", LOCAL),
    ("http://[::1]:9000/a", LOCAL),
    ("http://simulator.internal:8000/files/a", "http://simulator.internal:8000"),
    ("http://SIMULATOR.internal:8000/files/a", "http://simulator.internal:8000"),
    ("http://10.0.0.5:8000/files/a", "http://10.0.0.5:8000"),
    ("http://10.0.0.5:8000/files/a", "http://10.0.0.5:8000/comet"),
]


@pytest.mark.parametrize(("url", "root"), FETCHED)
def test_fetched(url: str, root: str) -> None:
    assert check_download(url, root) == url


THIS_MACHINE = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "localhost",
    "LocalHost.",
    "a.localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "127\u30020\u30020\u30021",
]
INSIDE = [
    "0",
    "0.0.0.0",  # noqa: S104
    "[::]",
    "10.0.0.5",
    "10.5",
    "167772165",
    "0xa.0.0.5",
    "10.0.0.5.",
    "172.16.0.1",
    "192.168.1.1",
    "192.168.257",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.169.254.",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::ffff:10.0.0.5]",
    "[2002:a00:5::]",
    "[64:ff9b::10.0.0.5]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "255.255.255.255",
    "224.0.0.1",
    "[ff0e::1]",
    "[fec0::1]",
    "[2002:7f00:1::]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::a00:5]",
    "[::10.0.0.5]",
    "[::127.0.0.1]",
    # httpx turns these dots into plain ones, so this is where it would connect to.
    "10\uff0e0\uff0e0\uff0e5",
    "169\uff61254\uff61169\uff61254",
]


@pytest.mark.parametrize("host", [*THIS_MACHINE, *INSIDE])
def test_nothing_inside_is_fetched(host: str) -> None:
    # With a simulator on this machine, this machine is open, and still nothing else inside.
    roots = [PUBLIC, "http://simulator.internal:8000", *([LOCAL] if host in INSIDE else [])]
    for root in roots:
        for scheme in ("https", "http"):
            with pytest.raises(OutputRefused, match="Will not fetch"):
                check_download(f"{scheme}://{host}/latest/meta-data", root)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://replicate.delivery/a", PUBLIC),
        ("http://replicate.delivery/a", LOCAL),
        ("http://replicate.delivery:443/a", PUBLIC),
        ("http://api.cometapi.com/a", PUBLIC),
        ("ftp://replicate.delivery/a", PUBLIC),
        ("file:///etc/passwd", LOCAL),
        ("data:image/png;base64,AA==", PUBLIC),
        ("replicate.delivery/a", PUBLIC),
        ("//replicate.delivery/a", PUBLIC),
        ("https:///a", PUBLIC),
        ("https://", PUBLIC),
        ("", PUBLIC),
        ("https://[::1", PUBLIC),
        ("https://replicate.delivery:99999/a", PUBLIC),
        ("https://replicate.delivery@evil.example/a", PUBLIC),
        ("https://@replicate.delivery/a", PUBLIC),
        (f"https://user:{SECRET}@replicate.delivery/a", PUBLIC),
        (f"https://user:{SECRET}@replicate.delivery:99999/a?sig={SECRET}", PUBLIC),
        (f"https://user:{SECRET}@[bad/a?sig={SECRET}", PUBLIC),
        (f"http://replicate.delivery/a?sig={SECRET}#{SECRET}", PUBLIC),
        (f"https://10.0.0.5/a?sig={SECRET}", PUBLIC),
        (f"http://user:{SECRET}@127.0.0.1:8123/a", LOCAL),
        # Beside the origin of an insecure root, not at it.
        ("http://simulator.internal:8001/a", "http://simulator.internal:8000"),
        ("http://simulator.internal/a", "http://simulator.internal:8000"),
        ("http://other.internal:8000/a", "http://simulator.internal:8000"),
        ("http://simulator.internal:8000.evil.example/a", "http://simulator.internal:8000"),
        ("http://10.0.0.6:8000/a", "http://10.0.0.5:8000"),
        ("https://10.0.0.5:8000/a", "http://10.0.0.5:8000"),
    ],
)
def test_not_fetched(url: str, root: str) -> None:
    with pytest.raises(OutputRefused) as caught:
        check_download(url, root)
    assert SECRET not in str(caught.value)


PUBLIC_ADDRESSES = [
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.15",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001:800::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",  # how a machine without IPv4 sees it
    "2002:808:808::1",
]
NOT_PUBLIC_ADDRESSES = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.5",
    "100.64.0.1",
    "100.100.100.200",  # Alibaba's metadata service
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # Azure's host
    "169.254.169.254",  # everybody else's metadata service
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",  # Oracle's metadata service
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::a00:5",
    "::808:808",
    "::ffff:10.0.0.5",
    "::ffff:169.254.169.254",
    "::ffff:224.0.0.1",
    "::ffff:0:a00:5",
    "64:ff9b::a00:5",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "64:ff9b::c000:c0",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:a00:5::1",
    "2002:a9fe:a9fe::",
    "2002:e000:1::",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",  # Amazon's metadata service
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_public_addresses(address: str) -> None:
    assert check_address(address, "it") == address


@pytest.mark.parametrize("address", [*NOT_PUBLIC_ADDRESSES, "", "files.example.com", "8.8.8.8%1"])
def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(OutputRefused, match=r"Will not fetch this file: its address"):
        check_address(address, "this file")


@pytest.mark.parametrize("address", [each for each in NOT_PUBLIC_ADDRESSES if "%" not in each])
def test_what_an_address_is_does_not_depend_on_who_names_it(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(OutputRefused):
        check_download(f"https://{host}/a", PUBLIC)


@pytest.mark.parametrize(
    ("url", "root", "configured"),
    [
        ("https://api.cometapi.com/files/a", PUBLIC, True),
        ("https://API.cometapi.com:443/files/a", PUBLIC, True),
        ("https://api.cometapi.com:8443/files/a", PUBLIC, False),
        ("http://api.cometapi.com/files/a", PUBLIC, False),
        ("https://replicate.delivery/a", PUBLIC, False),
        ("https://replicate.delivery/a", LOCAL, False),
        ("http://127.0.0.1:9000/a", LOCAL, True),
        ("https://localhost/a", LOCAL, True),
        ("ftp://localhost/a", LOCAL, False),
        ("https://localhost/a", PUBLIC, False),
        ("https://[2002:7f00:1::]/a", LOCAL, False),
        ("http://10.0.0.5:8000/a", "http://10.0.0.5:8000/comet", True),
        ("https://10.0.0.5:8000/a", "http://10.0.0.5:8000/comet", False),
        ("http://10.0.0.5/a", "http://10.0.0.5", True),
    ],
)
def test_places_that_the_users_own_settings_name(url: str, root: str, configured: bool) -> None:
    assert is_configured(url, root) is configured


# --- delivery hosts ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        (" \ufeff", ()),
        ("replicate.delivery", ("replicate.delivery",)),
        ("*.replicate.delivery", ("replicate.delivery",)),
        (".replicate.delivery", ("replicate.delivery",)),
        ("Replicate.DELIVERY.", ("replicate.delivery",)),
        (" a.example , b.example,", ("a.example", "b.example")),
        ("xn--bcher-kva.example", ("xn--bcher-kva.example",)),
        ("my_bucket.s3-1.example", ("my_bucket.s3-1.example",)),
        ("files", ("files",)),
    ],
)
def test_delivery_hosts(text: str, hosts: tuple[str, ...]) -> None:
    assert parse_hosts(text) == hosts
    assert parse_hosts(", ".join(hosts)) == hosts, "parsing twice changes nothing"


@pytest.mark.parametrize(
    "entry",
    [
        "https://replicate.delivery",
        "replicate.delivery:443",
        "replicate.delivery/a",
        f"user:{SECRET}@replicate.delivery",
        f"https://replicate.delivery/a?sig={SECRET}",
        f"https://replicate.delivery/a#{SECRET}",
        "*",
        "*.",
        ".",
        "..",
        "*.*.example",
        "a.*.example",
        "*a.example",
        "a..example",
        "..example",
        "-a.example",
        "a-.example",
        "a b.example",
        "a.example;b.example",
        "b\u00fccher.example",
        "8.8.8.8",
        "127.1",
        "[::1]",
        "::1",
        "x" * 64 + ".example",
        ".".join(["x" * 60] * 5),
    ],
)
def test_what_is_no_delivery_host(entry: str) -> None:
    for text in (entry, f"a.example, {entry}"):
        with pytest.raises(ConfigurationError, match="is not a host name") as caught:
            parse_hosts(text)
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [",", " , ,"])
def test_a_list_that_names_no_host_allows_nothing_by_mistake(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no host"):
        parse_hosts(text)


HOSTS = ("replicate.delivery", "files.example.com")


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://replicate.delivery/a", PUBLIC),
        ("https://pbxt.replicate.delivery:8443/a?b", PUBLIC),
        ("https://A.B.Replicate.Delivery./a", PUBLIC),
        ("https://files.example.com/a", LOCAL),
        # What the user has configured needs no second mention.
        ("https://api.cometapi.com/files/a", PUBLIC),
        ("http://127.0.0.1:9000/a", LOCAL),
        ("http://10.0.0.5:8000/files/a", "http://10.0.0.5:8000"),
    ],
)
def test_delivery_hosts_are_fetched_from(url: str, root: str) -> None:
    assert check_download(url, root, HOSTS) == url


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://example.com/a", PUBLIC),
        ("https://notreplicate.delivery/a", PUBLIC),
        ("https://replicate.delivery.evil.example/a", PUBLIC),
        ("https://evil.example/replicate.delivery", PUBLIC),
        ("https://evil.example/a?replicate.delivery", PUBLIC),
        ("https://evil.example#.replicate.delivery", PUBLIC),
        ("https://delivery/a", PUBLIC),
        ("https://8.8.8.8/a", PUBLIC),
        ("https://api.cometapi.com:8443/a", PUBLIC),
        ("https://files.api.cometapi.com/a", PUBLIC),
        ("https://other.example.com/a", LOCAL),
        # Being listed opens nothing else.
        ("http://replicate.delivery/a", PUBLIC),
        ("https://127.0.0.1/a", PUBLIC),
        (f"https://user:{SECRET}@replicate.delivery/a", PUBLIC),
    ],
)
def test_nothing_else_is_fetched_from(url: str, root: str) -> None:
    with pytest.raises(OutputRefused, match="Will not fetch") as caught:
        check_download(url, root, HOSTS)
    assert SECRET not in str(caught.value)


def test_a_host_that_is_missing_says_where_to_add_it() -> None:
    with pytest.raises(OutputRefused, match="DELIVERY_HOSTS"):
        check_download("https://new.example/a", PUBLIC, HOSTS)


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
