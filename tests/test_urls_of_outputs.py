"""Outputs come from public hosts over https, or from where the user's own settings say."""

import pytest

from prefect_cometapi.errors import ConfigurationError, OutputRefused
from prefect_cometapi.urls import check_address, check_download, is_configured, parse_hosts

#: URL of an output, API root.
SECRET = "hunter2"
PUBLIC = "https://api.cometapi.com"
LOCAL = "http://127.0.0.1:8123"

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
