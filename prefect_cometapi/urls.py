"""Which hosts may be talked to, with or without the key. Pure functions.

The key goes to the configured API root and nowhere else. Outputs are fetched without it, over
https, from public addresses, or only from the hosts that a setting names; only while the API root
itself is on this machine (the simulator) may they come from this machine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from prefect_cometapi.errors import ConfigurationError, InvalidInput, OutputRefused

DEFAULT_API_ROOT = "https://api.cometapi.com"
#: Where, below the API root, language models are asked: the OpenAI-compatible API.
CHAT_PATH = "/v1/chat/completions"

#: A byte-order mark and white space around pasted keys and URLs (the vendor's SDK strips them too).
_AROUND = "\ufeff \t\r\n\v\f\u00a0\u200b"

# Stricter than the service, which documents neither: nothing that a path could be built from.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PREDICTION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


def strip_around(text: str) -> str:
    """Take white space and byte-order marks off both ends."""
    return text.strip(_AROUND)


def parse_api_root(base_url: str, *, allow_insecure: bool = False) -> str:
    """Turn a base URL into the API root that every route is built on.

    Args:
        base_url: For example `https://api.cometapi.com/v1`. A trailing `/v1` is taken off: the
            vendor's SDKs want it, but the Replicate routes lie outside of it.
        allow_insecure: Accept plain http on a host other than this machine.

    Returns:
        The root without a trailing slash, such as `https://api.cometapi.com`.

    Raises:
        ConfigurationError: It is no usable URL, or would send the key in the clear.
    """
    text = strip_around(base_url)
    # No password is repeated in a message, nor a key that was put into a query or the wrong field.
    shown = f" {re.split(r'[?#]', text)[0]!r}" if "://" in text and "@" not in text else ""
    if "@" in text:
        raise ConfigurationError(
            "The base URL holds a user name or password; the key goes into `api_key` instead."
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(f"The base URL{shown} can not be read.") from None
    if parts.scheme not in ("http", "https") or not host or not _is_plain_host(host):
        raise ConfigurationError(
            f"The base URL{shown} is not an http(s) URL with a host; "
            f"the service's own is {DEFAULT_API_ROOT}."
        )
    if parts.query or parts.fragment or re.search(r"[\s\x00-\x1f\\?#]", text):
        raise ConfigurationError(f"The base URL{shown} may hold only a scheme, host and path.")
    if parts.scheme == "http" and not (allow_insecure or is_loopback(host)):
        raise ConfigurationError(
            f"The base URL{shown} would send the API key unencrypted to {host}. Use https, or "
            "set allow_insecure=True on the credentials for a simulator in a network you trust."
        )
    netloc = parts.netloc.lower()
    if port == _DEFAULT_PORTS[parts.scheme]:  # one name for one place
        netloc = netloc.removesuffix(f":{port}")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, netloc.rstrip(":"), path, "", ""))


_DEFAULT_PORTS = {"http": 80, "https": 443}


def check_model(model: object) -> str:
    """Return `model` if it is an `owner/name`, else raise `InvalidInput`."""
    if not isinstance(model, str) or not _MODEL.fullmatch(model) or ".." in model:
        raise InvalidInput(
            f"{_shown(model)} is not a model id. It is written owner/name, for example "
            "black-forest-labs/flux-schnell. Nothing was sent."
        )
    return model


def check_prediction_id(prediction_id: object) -> str:
    """Return `prediction_id` if it can be one, else raise `InvalidInput`."""
    if not isinstance(prediction_id, str) or not _PREDICTION_ID.fullmatch(prediction_id):
        raise InvalidInput(
            f"{_shown(prediction_id)} is not a prediction id: one holds only letters, digits, "
            "- and _. Nothing was sent."
        )
    return prediction_id


def create_url(api_root: str, model: str) -> str:
    """Where a prediction of `model` is created. The `/` of the model id stays raw (documented)."""
    return f"{api_root}/replicate/v1/models/{quote(check_model(model), safe='/')}/predictions"


def query_url(api_root: str, prediction_id: str) -> str:
    """Where a prediction's state is read."""
    return f"{api_root}/replicate/v1/predictions/{check_prediction_id(prediction_id)}"


def cancel_url(api_root: str, prediction_id: str) -> str:
    """Where a prediction is canceled (Replicate's route; not confirmed for CometAPI)."""
    return f"{query_url(api_root, prediction_id)}/cancel"


def chat_url(api_root: str) -> str:
    """Where a language model is asked."""
    return f"{api_root}{CHAT_PATH}"


def check_download(url: str, api_root: str, delivery_hosts: Collection[str] = ()) -> str:
    """Return `url` if an output may be fetched from it, else raise `OutputRefused`.

    What a host name resolves to is a second question: `check_address` answers it.

    Args:
        url: What the service (or a redirect) named.
        api_root: The API root in use; its own origin is always allowed, which is how a
            simulator serves its files.
        delivery_hosts: The only other hosts that are allowed, with their subdomains; none for
            every public host.

    Raises:
        OutputRefused: Not https, a name or password in it, or a host that is not public or not
            among `delivery_hosts`.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise OutputRefused("The service named an output URL that can not be read.") from None
    shown = redact(url)
    if not host or "@" in parts.netloc or not _is_plain_host(host):
        raise OutputRefused(f"Will not fetch {shown}: it is no plain URL of a host.")
    if is_configured(url, api_root):
        return url
    if is_loopback(host):
        raise OutputRefused(
            f"Will not fetch {shown}: outputs come from this machine only with the simulator."
        )
    if parts.scheme != "https":
        raise OutputRefused(f"Will not fetch {shown}: outputs are fetched over https only.")
    if delivery_hosts and not _is_among(host, delivery_hosts):
        raise OutputRefused(
            f"Will not fetch {shown}: outputs are fetched from {', '.join(delivery_hosts)} only. "
            "If it is a host of the service, add it to "
            "PREFECT_INTEGRATIONS_COMETAPI_DELIVERY_HOSTS."
        )
    if _address(host) is not None:
        check_address(host, shown)
    return url


def is_configured(url: str, api_root: str) -> bool:
    """True where the user's own settings name the place that the plain `url` leads to.

    That is the API root's origin, and with an API root on this machine all of this machine.
    """
    parts, root = urlsplit(url), urlsplit(api_root)
    if _origin(parts) == _origin(root):
        return True
    return (
        parts.scheme in _DEFAULT_PORTS
        and is_loopback(parts.hostname or "")
        and is_loopback(root.hostname or "")
    )


def check_address(address: str, shown: str) -> str:
    """Return `address` if outputs may be fetched from it, else raise `OutputRefused`.

    Args:
        address: An IP address, such as a host name was resolved to.
        shown: What is to be fetched, for the message.

    Raises:
        OutputRefused: It is private, link-local (where clouds keep their credentials), shared,
            multicast or reserved, also where it is wrapped into an IPv6 address.
    """
    found = _address(address)
    if found is None or not _is_public(found):
        raise OutputRefused(f"Will not fetch {shown}: its address {address} is not a public one.")
    return address


def parse_hosts(text: str) -> tuple[str, ...]:
    """Read a list of host names, such as `replicate.delivery, *.example.com`.

    Returns:
        The names in lower case, without `*.` or `.` before and `.` behind them.

    Raises:
        ConfigurationError: An entry is no host name, or the list has commas and nothing else.
    """
    entries = [entry for each in text.split(",") if (entry := strip_around(each))]
    hosts = []
    for entry in entries:
        host = re.sub(r"^(\*\.|\.)", "", entry.lower()).removesuffix(".")
        if not _HOST.fullmatch(host) or len(host) > 253 or _address(host) is not None:
            # A password or a signature that was pasted along is not repeated.
            shown = "An entry" if re.search(r"[@?#]", entry) else _shown(entry)
            raise ConfigurationError(
                f"{shown} is not a host name; one is written files.example.com, without scheme, "
                "port or path, and its subdomains are included."
            )
        hosts.append(host)
    if strip_around(text) and not hosts:
        raise ConfigurationError("It names no host; leave it empty to allow every public host.")
    return tuple(hosts)


_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")


def _is_among(host: str, hosts: Collection[str]) -> bool:
    host = host.lower().removesuffix(".")
    return any(host == each or host.endswith(f".{each}") for each in hosts)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)


def redact(url: str) -> str:
    """The URL without user, query and fragment: fit for logs and messages."""
    try:
        parts = urlsplit(url)
        netloc = parts.hostname or ""
        if ":" in netloc:
            netloc = f"[{netloc}]"
        if parts.port:
            netloc += f":{parts.port}"
    except ValueError:
        return "(a URL that can not be read)"
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))


def is_loopback(host: str) -> bool:
    """True where `host` names this machine: `localhost`, 127.0.0.0/8 or ::1."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _is_plain_host(host: str) -> bool:
    # HTTP libraries fold full-width digits and ideographic dots, and unquote %2e, after the check.
    return host.isascii() and "%" not in host


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    """The address that `host` spells, also in the short forms that the C library accepts."""
    host = host.rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return _is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in _SPECIAL)
    )


#: IPv4 addresses behind a translator (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: All that is handed out of IPv6 (RFC 4291). Beside it: link-local, site-local, translators, …
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
#: What `is_global` lets pass, depending on the version of Python.
_SPECIAL = (
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's host, seen from its machines only
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata service
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays, given up
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
