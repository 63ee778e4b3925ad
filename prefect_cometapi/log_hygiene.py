"""What other libraries log of this package's requests, without signatures and what servers send."""

from __future__ import annotations

import logging
import re
import threading

import httpx

from prefect_cometapi import urls

#: The name of the thread of the background loop (`portal`).
BACKGROUND_THREAD = "prefect-cometapi"


class _Hygiene(logging.Filter):
    """Takes queries, and what servers send, out of the lines that the background thread logs.

    A query is how an output's URL is signed, a redirect's `location` holds one, and some gateways
    repeat the key in a header. What other threads log with httpx is theirs.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record where it is of this package's own requests; let every one pass."""
        if threading.current_thread().name != BACKGROUND_THREAD:
            return True
        if record.name == "httpx" and isinstance(record.args, tuple):
            args = [urls.redact(str(a)) if isinstance(a, httpx.URL) else a for a in record.args]
            if len(args) == 5 and isinstance(args[3], int):  # method, URL, version, status, reason
                args[4] = httpx.codes.get_reason_phrase(args[3])
            record.args = tuple(args)
        elif str(record.msg).startswith("receive_response"):
            event = str(record.msg)
            known = _KNOWN.match(event)
            kept = known[0] if known else event.split(" ")[0]
            record.msg = kept if kept == event else f"{kept} …"
        return True


#: Of httpcore's lines on a response, what no server can write into.
_KNOWN = re.compile(
    r"\S+ (request=<Request \[b'\w+'\]>|return_value=\(b'HTTP/[\d.]+', \d+|exception=\w+)"
)
_hygiene = _Hygiene()


def keep_signatures_out_of_logs() -> None:
    """Filter what the HTTP libraries log; may be called any number of times."""
    # Each by its name: a logger's filter does not see what its children log.
    parts = ("connection", "http11", "http2", "proxy", "socks")
    for name in ("httpx", "httpcore", *(f"httpcore.{part}" for part in parts)):
        logging.getLogger(name).addFilter(_hygiene)  # which adds it once
