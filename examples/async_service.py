"""A service on asyncio that loses no reading when it is told to stop.

Meters send it their readings, a line each ("meter7 21.5"), over a Unix socket; it answers "taken", and sends them on to
a store, in batches, when the store is there. Told to stop (SIGTERM) or to suspend (SIGTSTP), it takes no more ("later":
the meter keeps it), and a coroutine in a worker sends what is left. What cannot be sent in time is written to a file
for the next start, and the exit status is 75 (EX_TEMPFAIL).

    python examples/async_service.py store /tmp/store.sock &
    python examples/async_service.py serve /tmp/meters.sock --store /tmp/store.sock --left /tmp/left.txt &
    python -c 'import socket as s; m = s.socket(s.AF_UNIX); m.connect("/tmp/meters.sock"); m.send(b"meter7 21.5\\n")'

The store knows each reading by its number: it does no harm to send one twice, and so "sent" is only said of what has
been confirmed. It prints what it has stored.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import time
from pathlib import Path

import capbg

BATCH = 20
RETRY_S = 0.5

unsent: dict[str, str] = {}
"""Readings by number, oldest first. One leaves it when the store has confirmed it, and not before."""


async def deliver(store: str) -> None:
    """Send one batch of what is unsent. Raises OSError if the store does not confirm it."""
    batch = dict(itertools.islice(unsent.items(), BATCH))
    reader, writer = await asyncio.open_unix_connection(store)
    with contextlib.closing(writer):
        writer.writelines(f"{number} {reading}\n".encode() for number, reading in batch.items())
        writer.write_eof()
        if await reader.readline() != b"stored\n":
            raise ConnectionError("the store did not confirm")
    for number in batch:
        unsent.pop(number, None)


async def deliver_all(store: str) -> None:
    """Go on until nothing is unsent."""
    while unsent:
        try:
            await deliver(store)
        except OSError:
            await asyncio.sleep(RETRY_S)


async def serve(meters: str, store: str, left: Path, grace: float) -> None:
    numbers = (f"{time.time_ns():x}" for _ in itertools.count())
    app = capbg.App("readings", grace=grace)
    news = asyncio.Event()
    if left.exists():
        for line in left.read_text().splitlines():
            number, _, reading = line.partition(" ")
            unsent[number] = reading
        news.set()

    @app.background_task()
    async def flush(task: capbg.Task) -> None:
        # In a worker, on a loop of its own: nothing of the app's loop is used here, only the readings.
        try:
            await deliver_all(store)
        finally:  # by a cancellation, if the time is over: there are `kill_after` seconds for this
            left.write_text("".join(f"{number} {reading}\n" for number, reading in unsent.items()))

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, ValueError):  # ValueError: endless lines
            while line := await reader.readline():
                active = app.get_state().is_active  # else the worker, forked already, would not know of this one
                if active:
                    unsent[next(numbers)] = line.decode(errors="replace").strip()
                    news.set()
                writer.write(b"taken\n" if active else b"later\n")
                await writer.drain()

    def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.create_task(take(reader, writer))

    server = await asyncio.start_unix_server(answer, meters, start_serving=False)
    async with app, server, asyncio.TaskGroup() as talks:
        await server.start_serving()
        print(f"listening on {meters}", flush=True)
        while True:  # until capbg cancels it
            await news.wait()
            news.clear()
            await deliver_all(store)


async def keep(path: str) -> None:
    """Play the store."""
    stored: set[str] = set()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            for line in (await reader.read()).decode().splitlines():
                number, _, reading = line.partition(" ")
                if number not in stored:
                    stored.add(number)
                    print(f"stored {reading}", flush=True)
            writer.write(b"stored\n")
            await writer.drain()

    async with await asyncio.start_unix_server(take, path) as server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A service that sends on what meters tell it, and a store for that.")
    roles = parser.add_subparsers(dest="role", required=True)
    service = roles.add_parser("serve", help="take readings and send them on")
    service.add_argument("meters", help="the Unix socket to listen on")
    service.add_argument("--store", required=True, help="the Unix socket of the store")
    service.add_argument("--left", type=Path, required=True, help="the file for what could not be sent")
    service.add_argument("--grace", type=float, default=30.0, help="seconds to finish in; CAPBG_GRACE overrides it")
    roles.add_parser("store", help="play the store").add_argument("path", help="the Unix socket to listen on")
    asked = parser.parse_args()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(asked.meters if asked.role == "serve" else asked.path)  # left by one that was killed
    if asked.role == "store":
        asyncio.run(keep(asked.path))
    else:
        asyncio.run(serve(asked.meters, asked.store, asked.left, asked.grace))


if __name__ == "__main__":
    main()
