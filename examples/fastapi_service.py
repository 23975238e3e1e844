"""A service that takes readings over HTTP and loses none of them when it is told to stop.

Readings are kept in memory and written to the database in batches. Told to stop (SIGTERM), the server answers the
requests in flight; then capbg writes the rest in a worker, under a deadline, and the process leaves: with status 0, or
with 75 (EX_TEMPFAIL) if the rest could not be written.

    python examples/fastapi_service.py --database /tmp/readings.sqlite
    curl --json '{"sensor": "door", "value": 21.5}' http://127.0.0.1:8000/readings

Or in gunicorn, whose grace ends first (grace and kill_after must be below --graceful-timeout and --timeout):

    CAPBG_GRACE=20 gunicorn -k uvicorn_worker.UvicornWorker --chdir examples 'fastapi_service:service()'
"""

import argparse
import asyncio
import contextlib
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import capbg
from capbg.loops.lifespan import lifespan

FLUSH_DEADLINE_S = 10.0


class Reading(BaseModel):
    """What a sensor sends."""

    sensor: str
    value: float


def write(database: Path, rows: list[tuple[str, float, str, float]]) -> None:
    """Commit readings. Twice does no harm: after a suspension a worker may have written them already."""
    # A connection for this once: SQLite's must not be carried over a fork (https://sqlite.org/howtocorrupt.html, 2.6).
    with contextlib.closing(sqlite3.connect(database, timeout=FLUSH_DEADLINE_S / 2)) as connection, connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS readings (id TEXT PRIMARY KEY, at REAL, sensor TEXT, value REAL)"
        )
        connection.executemany("INSERT OR IGNORE INTO readings VALUES (?, ?, ?, ?)", rows)


def service(database: Path = Path("readings.sqlite"), every: float = 5.0) -> FastAPI:
    """The service, and the app that is entered with it. ``every``: seconds between two batches."""
    app = capbg.App("readings", grace=30.0)
    rows: list[tuple[str, float, str, float]] = []

    @app.background_task(deadline=FLUSH_DEADLINE_S)
    def flush() -> None:
        if rows:
            write(database, rows)

    async def write_batches() -> None:
        while True:
            await asyncio.sleep(every)
            if rows:
                with contextlib.suppress(sqlite3.OperationalError):  # locked: again with the next batch
                    # No await in between: workers are forked by this very loop, so never from the middle of it.
                    write(database, rows)
                    rows.clear()

    @contextlib.asynccontextmanager
    async def batches(_web: FastAPI) -> AsyncIterator[None]:
        writer = asyncio.create_task(write_batches())
        yield
        writer.cancel()

    web = FastAPI(lifespan=lifespan(app, batches))

    @web.post("/readings", status_code=201)
    async def take(reading: Reading) -> str:
        row = (uuid.uuid4().hex, time.time(), reading.sensor, reading.value)
        rows.append(row)
        return row[0]

    return web


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes readings over HTTP. SIGTERM: it writes the rest and leaves.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", type=Path, default=Path("readings.sqlite"))
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two batches")
    asked = parser.parse_args()
    uvicorn.run(service(asked.database, asked.every), port=asked.port)


if __name__ == "__main__":
    main()
