"""What places, models and tables are called as assets of Prefect. Pure.

Prefect takes a lower case scheme, no more than 512 characters, and not the ones that a query, a
quotation or white space would need. A key holds no credential, whatever the URL that it is from.
"""

from __future__ import annotations

import hashlib
import re

from prefect_cometapi.errors import InvalidInput

#: The longest key that Prefect takes, in characters.
LONGEST = 512
#: How many tables and files one call may name: an event holds a hundred related things in all.
MANY_SOURCES = 20

#: What Prefect takes no key with; and what no database or terminal likes in a name.
_REFUSED = re.compile(r"""[\s#?&%"'<>\[\]{}|\\^`\x00-\x1f\x7f-\x9f\ud800-\udfff]""")
#: What Prefect takes as a scheme.
_SCHEME = re.compile(r"[a-z0-9]+")
#: A host, perhaps with a port, and no user.
_HOST = re.compile(r"(\[[^@]*\]|[^@:\[\]]*)(:\d*)?")
#: Azure's schemes name the container where others have a user: `abfs://container@account/path`.
_CONTAINER_SCHEMES = ("abfs", "abfss", "wasb", "wasbs")


def as_key(uri: str) -> str:
    """A URI as Prefect takes it as the key of an asset, such as one of `sources=`.

    What it does not take becomes `_`, and what is too long is cut. Either way a short hash of the
    whole is added, so that two places do not become one.
    """
    key = _REFUSED.sub("_", uri)
    if key == uri and len(key) <= LONGEST:
        return key
    mark = f"~{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return key[: LONGEST - len(mark)] + mark


def of_model(model: str) -> str:
    """A model, as `owner/name`."""
    return as_key(f"cometapi://model/{model}")


def of_folder(folder: str, prefix: str = "") -> str:
    """A folder of this machine, by its absolute path with `/` (on Windows `C:/pictures`)."""
    return as_key(f"file://{_joined('/' + folder.strip('/'), prefix) or '/'}")


def of_bucket(scheme: str, bucket: str, folder: str = "", prefix: str = "") -> str:
    """A prefix in a bucket or a container."""
    return as_key(f"{scheme}://{_joined(bucket, folder, prefix)}")


def of_block(slug: str, name: str, prefix: str = "") -> str:
    """A prefix in a block that says no more of where it is; as this package writes saved blocks."""
    return as_key(f"block://{_joined(slug, name, prefix)}")


def of_url(url: str, prefix: str = "") -> str | None:
    """A prefix below a URL, without user, password, query and fragment.

    None where it is no URL, or one in which a password can not be told from a host.
    """
    scheme, is_url, rest = url.partition("://")
    scheme = scheme.lower()
    if not is_url or not _SCHEME.fullmatch(scheme):
        return None
    authority = _authority(rest)
    if not _names_no_user(scheme, authority):
        _, at, after = authority.rpartition("@")
        if not at:  # a password may have a / in it, as Amazon's have
            authority = rest
            _, at, after = rest.rpartition("@")
        if not at:
            return None
        rest = after + rest[len(authority) :]
    rest = re.split(r"[?#]", rest)[0]
    if scheme in ("file", "local"):
        return of_folder(rest, prefix)
    return as_key(f"{scheme}://{_joined(rest, prefix)}")


def check_source(key: str) -> str:
    """Refuse a key of a user's own that holds a credential; what else is wrong, Prefect says.

    Raises:
        InvalidInput: It has a user or a password. The message does not repeat it.
    """
    scheme, _, rest = key.partition("://")
    authority = _authority(rest)
    if not _names_no_user(scheme, authority):
        raise InvalidInput(
            "A source holds a user name or a password, which everybody would see in Prefect: "
            "leave it out, as in postgresql://host/database/table. Nothing was sent."
        )
    return key


def _authority(rest: str) -> str:
    """What of a URL without its scheme may name a user, a host and a port."""
    return re.split(r"[/?#]", rest, maxsplit=1)[0]


def _names_no_user(scheme: str, authority: str) -> bool:
    container = scheme in _CONTAINER_SCHEMES and ":" not in authority
    return container or _HOST.fullmatch(authority) is not None


def _joined(*parts: str) -> str:
    """The parts of a path; a leading `/` of the first one stays."""
    first, *rest = parts
    return "/".join([first.rstrip("/"), *(part.strip("/") for part in rest if part.strip("/"))])
