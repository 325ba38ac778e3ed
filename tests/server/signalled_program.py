"""A program that serves until a signal: ``python signalled_program.py PATH MODE FACE``; its tests send the signals.

Its handler greets, answers each message in capitals, and "slow" only when it is told "go" by another connection.
It prints what came of it at the end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import jackfield
from jackfield import AsyncRequestHandler, BaseRequestHandler, draining, sync

# Who waits for an answer is waited for, however long it is quiet meanwhile.
draining.QUIET = 1000.0

go = sync.Event()


class Handler(BaseRequestHandler[Any]):
    def handle(self) -> None:
        self.request.sendall(b"here")
        while data := self.request.recv(100):
            if data == b"go":
                go.set()
            if data == b"slow":
                go.wait()
            self.request.sendall(data.upper())


class AsyncHandler(AsyncRequestHandler[Any]):
    async def handle(self) -> None:
        await self.request.sendall(b"here")
        while data := await self.request.recv(100):
            if data == b"go":
                go.set()
            if data == b"slow":
                await go.await_()
            await self.request.sendall(data.upper())


def main() -> None:
    path, mode, face = sys.argv[1:]
    handler = AsyncHandler if mode == "async" else Handler
    address = f"unix:{path}"
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if face == "serve":
        jackfield.serve(handler, address, mode=mode, graceful_timeout=1000)
    elif face == "thread":
        thread = threading.Thread(target=jackfield.serve, args=(handler, address), kwargs={"mode": mode})
        ears, mouth = os.pipe()
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        thread.start()
        os.read(ears, 1)
        print("heard", flush=True)
        thread.join()
    elif face == "own":
        server = jackfield.Server(handler, address, mode=mode, graceful_timeout=0.01)
        signal.signal(signal.SIGTERM, lambda number, frame: server.stop())
        server.serve_forever()
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    after = {number: signal.getsignal(number) for number in before}
    print("ended", "handlers as before" if after == before else "other handlers", flush=True)


if __name__ == "__main__":
    main()
