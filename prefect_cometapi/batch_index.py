"""What a batch's journal says by now, in a database of this process: on disk where it is large."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from prefect_cometapi.batch_models import BatchItem
from prefect_cometapi.ledger import Record, read_record

#: A record that is in doubt, being sent, or paid for and not saved. Found by the database: a scope
#: may have a million records.
_OPEN = "record IS NOT NULL AND json_extract(record, '$.outcome') IS NULL"


class Index:
    """What the journal says by now, on disk where it is large."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute(
            "CREATE TABLE entries (record_key TEXT PRIMARY KEY, record TEXT, item TEXT)"
        )
        self._db.execute(
            "CREATE TABLE rows (call INTEGER, number INTEGER, item TEXT,"
            " PRIMARY KEY (call, number)) WITHOUT ROWID"
        )
        self._db.execute(
            "CREATE TABLE seen (call INTEGER, record_key TEXT, times INTEGER,"
            " PRIMARY KEY (call, record_key)) WITHOUT ROWID"
        )

    def apply(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        key = line.get("record_key")
        if not isinstance(key, str):
            return
        for column in ("record", "item"):
            if column in line:
                value = line[column]
                text = None if value is None else json.dumps(value, ensure_ascii=False)
                self._db.execute(
                    f"INSERT INTO entries (record_key, {column}) VALUES (?, ?) "  # noqa: S608
                    f"ON CONFLICT (record_key) DO UPDATE SET {column} = excluded.{column}",
                    (key, text),
                )

    def _get(self, column: str, key: str) -> str | None:
        rows = self._db.execute(f"SELECT {column} FROM entries WHERE record_key = ?", (key,))  # noqa: S608
        row = rows.fetchone()
        return row[0] if row else None

    def record(self, key: str) -> tuple[bool, Record | None]:
        """Whether there is a record, and the record if it can be read."""
        text = self._get("record", key)
        return (False, None) if text is None else (True, read_record(json.loads(text)))

    def item(self, key: str) -> BatchItem | None:
        """How the item ended when it was last worked on."""
        text = self._get("item", key)
        with suppress(ValueError):
            return None if text is None else BatchItem.model_validate_json(text)
        return None

    def records(self) -> Iterator[tuple[str, Record | None]]:
        """All records, by their key."""
        for key, text in self._db.execute(
            "SELECT record_key, record FROM entries WHERE record IS NOT NULL"
        ):
            yield key, read_record(json.loads(text))

    def left(self) -> int:
        """How many records are in doubt, or paid for and not saved."""
        return int(self._db.execute(f"SELECT count(*) FROM entries WHERE {_OPEN}").fetchone()[0])  # noqa: S608

    def models(self) -> Counter[str]:
        """How many predictions of each model there are, or may be."""
        rows = self._db.execute(
            "SELECT coalesce(json_extract(record, '$.model'), ''), count(*) FROM entries"
            " WHERE record IS NOT NULL GROUP BY 1"
        )
        return Counter(dict(rows.fetchall()))

    def give_up_waiting(self) -> None:
        """What was being sent by processes that are gone is in doubt, without waiting for it."""
        rows = self._db.execute(
            f"SELECT record_key, record FROM entries WHERE {_OPEN}"  # noqa: S608
            " AND json_extract(record, '$.prediction_id') IS NULL"
        )
        for key, text in rows.fetchall():
            record = read_record(json.loads(text))
            if record and not record.lost:
                lost = record.model_copy(update={"lost": True})
                self.apply({"record_key": key, "record": as_plain(lost)})

    def count(self, call: int, key: str) -> int:
        """How often one call has seen an item before; counts it."""
        row = self._db.execute(
            "INSERT INTO seen VALUES (?, ?, 1) ON CONFLICT (call, record_key)"
            " DO UPDATE SET times = times + 1 RETURNING times",
            (call, key),
        ).fetchone()
        return int(row[0]) - 1

    def take_row(self, call: int, item: BatchItem) -> None:
        """Remember how an item of one call ended."""
        self._db.execute(
            "INSERT OR REPLACE INTO rows VALUES (?, ?, ?)",
            (call, item.number, item.model_dump_json()),
        )

    def rows(self, call: int) -> Iterator[str]:
        """The items of one call in their order, as JSON."""
        for (text,) in self._db.execute(
            "SELECT item FROM rows WHERE call = ? ORDER BY number", (call,)
        ):
            yield text

    def lines(self) -> Iterator[str]:
        """All of it, as lines of a journal."""
        for key, record, item in self._db.execute("SELECT * FROM entries"):
            parts = [f'"record_key": {json.dumps(key)}']
            parts += [f'"record": {record}'] if record else []
            parts += [f'"item": {item}'] if item else []
            yield "{" + ", ".join(parts) + "}"

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM entries").fetchone()[0])

    def close(self) -> None:
        """Let it go."""
        self._db.close()


def as_plain(record: Record) -> dict[str, Any]:
    """A record as plain data, whole."""
    return record.as_json(sys.maxsize)
