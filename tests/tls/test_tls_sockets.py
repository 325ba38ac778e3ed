"""What a TLS socket is to a program: data of every size in every mode, both directions at once, endings, timeouts."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import io
import os
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
from tls_support import WAYS, Beside, Files, aecho, connected, conversation, wrapped

import jackfield
from jackfield.errors import MisuseError
from jackfield.streams import AsyncReader, AsyncSocket, AsyncWriter
from jackfield.tls import TLSSocket, astart_client, astart_server, start_client, start_server
from jackfield.tls.blocking import TLSSocket as Blocking

MIB = 1 << 20


def all_of(client: ssl.SSLSocket, size: int, step: int = 65536) -> str:
    """The digest of so many bytes."""
    digest, left = hashlib.sha256(), size
    while left:
        data = client.recv(min(step, left))
        assert data, f"{left} bytes are missing"
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()


def raises_when_cut(files: Files) -> ssl.SSLContext:
    """A client to whom an end without a goodbye is an error."""
    context = files.client()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_64_mib_to_a_reader_that_takes_little(files: Files, way: str) -> None:
    text = os.urandom(MIB) * 64

    def serve(raw: Any) -> None:
        with start_server(raw, files.served) as sock:
            sock.sendall(text)

    async def aserve(raw: Any) -> None:
        sock = await astart_server(AsyncSocket(raw), files.served)
        await sock.sendall(text)
        await sock.aclose()

    def read() -> str:
        with wrapped(other, raises_when_cut(files), suppress_ragged_eofs=False) as client:
            digest = all_of(client, len(text), 4096)
            assert client.recv(1) == b""  # a goodbye
            return digest

    raw, other = connected()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    with Beside(read) as reading:
        if way == "async":
            asyncio.run(aserve(raw))
        elif way == "green":
            jackfield.run(serve, raw)
        else:
            serve(raw)
    assert reading.value == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("way", WAYS)
def test_a_byte_at_a_time_on_the_wire(files: Files, way: str) -> None:
    """Through a proxy that passes single bytes on, in both directions."""
    ours, near = jackfield.socket.socketpair()
    far, theirs = socket.socketpair()

    def passing(source: Any, target: Any) -> None:
        while data := source.recv(65536):
            for at in range(len(data)):
                target.sendall(data[at : at + 1])
        target.shutdown(socket.SHUT_WR)

    def talk() -> None:
        with wrapped(theirs, files.client()) as client:
            client.sendall(b"hello" * 300)
            assert client.recv(9999) == b"HELLO" * 300
            client.unwrap().close()

    with near, far, Beside(passing, near, far), Beside(passing, far, near), Beside(talk):
        sock = WAYS[way](ours, files.served)
    assert not sock.truncated


def test_full_duplex_of_threads(files: Files) -> None:
    text = os.urandom(8 * MIB)
    with conversation(files.served, files.client()) as (sock, client):
        with Beside(client.sendall, text), Beside(sock.sendall, text), Beside(all_of, client, len(text)) as theirs:
            digest = hashlib.sha256()
            left = len(text)
            while left:
                data = sock.recv(65536)
                digest.update(data)
                left -= len(data)
    assert digest.hexdigest() == theirs.value == hashlib.sha256(text).hexdigest()


def test_full_duplex_of_green_threads(files: Files) -> None:
    text = os.urandom(4 * MIB)

    def both() -> list[str]:
        ours, theirs = connected()
        other = jackfield.socket.socket(fileno=theirs.detach())
        shaking = jackfield.spawn(start_client, other, "localhost", files.client())
        with start_server(ours, files.served) as sock, shaking.result() as client:
            sending = [jackfield.spawn(end.sendall, text) for end in (sock, client)]
            reading = [jackfield.spawn(all_of, end, len(text)) for end in (sock, client)]
            for one in sending:
                one.result(20)
            return [one.result(20) for one in reading]

    assert set(jackfield.run(both)) == {hashlib.sha256(text).hexdigest()}


def test_full_duplex_of_coroutines(files: Files) -> None:
    text = os.urandom(4 * MIB)

    async def read(sock: Any) -> str:
        digest, left = hashlib.sha256(), len(text)
        while left:
            data = await sock.recv(65536)
            digest.update(data)
            left -= len(data)
        return digest.hexdigest()

    async def both() -> list[str]:
        ours, theirs = connected()
        other = AsyncSocket(jackfield.socket.socket(fileno=theirs.detach()))
        shaking = asyncio.create_task(astart_client(other, "localhost", files.client()))
        sock = await astart_server(AsyncSocket(ours), files.served)
        client = await shaking
        found = await asyncio.gather(read(sock), read(client), sock.sendall(text), client.sendall(text))
        await client.aclose()
        await sock.aclose()
        return found[:2]

    assert set(asyncio.run(both())) == {hashlib.sha256(text).hexdigest()}


def test_many_threads_may_send(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        sending = [Beside(lambda letter=letter: [sock.sendall(letter * 20000) for _ in range(20)]) for letter in
                   (b"a", b"b", b"c")]  # fmt: skip
        with sending[0], sending[1], sending[2]:
            got = bytearray()
            while len(got) < 1_200_000:
                got += client.recv(65536)
    assert {got.count(letter) for letter in b"abc"} == {400_000}


def test_one_byte_asked_at_a_time(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.sendall(b"hello")
        client.sendall(b" world")
        assert [sock.recv(1) for _ in range(11)] == [bytes([letter]) for letter in b"hello world"]


def test_recv_into_and_read_and_write(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.sendall(b"hello world")
        buffer = bytearray(20)
        assert sock.recv_into(buffer, 5) == 5 and buffer[:5] == b"hello"
        assert sock.pending() == 6
        assert sock.read(3) == b" wo" and sock.read(100, buffer[:3]) == 3
        assert sock.write(memoryview(b"answer")) == 6 and client.recv(9) == b"answer"
        assert sock.recv(0) == b"" and sock.recv_into(bytearray()) == 0
        sock.sendall(b"")
        assert sock.send(b"") == 0
        for call in (lambda: sock.recv(-1), lambda: sock.recv_into(buffer, -1), lambda: sock.recv_into(buffer, 21)):
            with pytest.raises(ValueError):
                call()


def test_a_shorter_fragment_that_the_client_asks_for(files: Files) -> None:
    """A record may hold less than 16 KiB (RFC 6066 4), so one call of OpenSSL's does not encrypt all."""

    class Little:
        def write(self, data: Any) -> int:
            return real.write(data[:512])

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    with conversation(files.served, files.client()) as (sock, client):
        real, sock._engine.ssl = sock._engine.ssl, Little()
        sock.sendall(b"x" * 5000)
        got = b""
        while len(got) < 5000:
            got += client.recv(5000)
        sock._engine.ssl = real


def test_makefile(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.sendall(b"one\ntwo\n" + b"x" * 30000 + b"\n")
        with sock.makefile("rwb") as file:
            sock.close()  # the file keeps it open, as any socket's does
            assert file.readline() == b"one\n" and file.readline() == b"two\n" and len(file.readline()) == 30001
            file.write(b"answer")
            file.flush()
            assert client.recv(9) == b"answer"
        assert client.recv(9) == b""


@pytest.mark.parametrize("way", ["thread", "green", "async"])
def test_files(files: Files, way: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(300_000))

    def there_and_back(sock: TLSSocket) -> None:
        with source.open("rb") as file:
            assert sock.sendfile(file, 100, 250_000) == 250_000 and file.tell() == 250_100
        with target.open("wb") as file:
            assert sock.recvfile(file, count=250_000) == 250_000

    async def awaited(raw: Any) -> None:
        sock = await astart_server(AsyncSocket(raw), files.served)
        with source.open("rb") as file:
            assert await sock.sendfile(file, 100, 250_000) == 250_000
        with target.open("wb") as file:
            assert await sock.recvfile(file, count=250_000) == 250_000
        await sock.aclose()

    def mirror() -> None:
        with wrapped(other, files.client()) as client:
            got = b""
            while len(got) < 250_000:
                got += client.recv(65536)
            client.sendall(got)

    def serve() -> None:
        with start_server(raw, files.served) as sock:
            there_and_back(sock)

    raw, other = connected()
    with Beside(mirror):
        {"thread": serve, "green": lambda: jackfield.run(serve), "async": lambda: asyncio.run(awaited(raw))}[way]()
    assert target.read_bytes() == source.read_bytes()[100:250_100]


def test_what_cannot_be_a_file(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, _):
        with pytest.raises(ValueError):
            sock.sendfile(io.BytesIO(b"x"), 0, -1)
        sock.settimeout(0.0)
        with pytest.raises(ValueError, match="non-blocking"):
            sock.sendfile(io.BytesIO(b"x"))
        sock.settimeout(None)


# -- endings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_half_close(files: Files, version: str) -> None:
    with conversation(files.served, files.client(version)) as (sock, client):
        client.sendall(b"unread")
        sock.sendall(b"last words")
        sock.shutdown(socket.SHUT_WR)
        assert client.recv(99) == b"last words" and client.recv(99) == b""
        client.sendall(b" still talking")
        assert sock.recv(99) + sock.recv(99) == b"unread still talking"
        with pytest.raises(BrokenPipeError):
            sock.sendall(b"more")


@pytest.mark.parametrize("how", ["close", "shutdown", "lost"])
def test_the_goodbye_is_said(files: Files, how: str) -> None:
    with conversation(files.served, raises_when_cut(files), suppress_ragged_eofs=False) as (sock, client):
        if how == "close":
            sock.close()
        elif how == "shutdown":
            sock.shutdown(socket.SHUT_RDWR)
        else:
            os.close(sock.detach())  # the check can fail
            with pytest.raises(ssl.SSLEOFError):
                client.recv(1)
            return
        assert client.recv(1) == b""


def test_a_cut_is_told_from_an_end(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        client.shutdown(socket.SHUT_WR)  # Python's says no goodbye
        assert sock.recv(99) == b"" and sock.truncated
        assert sock.recv(99) == b""
    with conversation(files.served, files.client()) as (sock, client):
        with Beside(client.unwrap) as unwrapping:
            assert sock.recv(99) == b"" and not sock.truncated
            sock.close()
        unwrapping.value.close()


def test_closing_wakes_who_waits_in_a_green_thread(files: Files) -> None:
    def program() -> None:
        with conversation(files.served, files.client()) as (sock, _):
            waiting = jackfield.spawn(sock.recv, 100)
            jackfield.sleep(0)
            sock.close()
            with pytest.raises(OSError):
                waiting.result(10)

    jackfield.run(program)


def test_a_closed_one_can_do_nothing(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, _):
        sock.close()
        sock.close()
        for call in (lambda: sock.recv(1), lambda: sock.sendall(b"x"), lambda: sock.send(b"x")):
            with pytest.raises(OSError):
                call()


def test_nothing_is_left_of_one_that_is_dropped(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, _):
        counted = sock.__class__
    del sock
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one) is counted and one.fileno() >= 0]


# -- patience ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("green", [False, True])
def test_a_timeout_is_for_one_call(files: Files, green: bool) -> None:
    def program() -> None:
        with conversation(files.served, files.client()) as (sock, client):
            sock.settimeout(0.02)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            client.sendall(b"late")
            sock.settimeout(20)
            assert sock.recv(9) == b"late" and sock.gettimeout() == 20
            sock.sendall(b"x" * 100_000)
            got = b""
            while len(got) < 100_000:
                got += client.recv(65536)
            sock.settimeout(0.02)
            os.write(client.fileno(), b"\x17\x03\x03")  # half a record is not an answer
            with pytest.raises(TimeoutError):
                sock.recv(1)

    jackfield.run(program) if green else program()


@pytest.mark.parametrize("green", [False, True])
def test_what_was_sent_before_a_timeout_is_told_and_goes_on(files: Files, green: bool) -> None:
    def program() -> None:
        with conversation(files.served, files.client()) as (sock, client):
            sock.settimeout(0.05)
            text = os.urandom(32 * MIB)
            with pytest.raises(TimeoutError) as caught:
                sock.sendall(text)
            sent = caught.value.bytes_sent  # type: ignore[attr-defined]
            assert 0 < sent < len(text)
            with Beside(all_of, client, sent + 5) as reading:
                sock.settimeout(20)
                sock.sendall(b" more")
        assert reading.value == hashlib.sha256(text[:sent] + b" more").hexdigest()

    jackfield.run(program) if green else program()


def test_send_that_meets_a_full_kernel(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        sock.settimeout(0.02)
        total = 0
        with pytest.raises(TimeoutError):
            while True:
                total += sock.send(b"x" * 100_000)
        sock.settimeout(20)
        with Beside(all_of, client, total + 3) as reading:
            assert sock.send(b"end") == 3
            sock.shutdown(socket.SHUT_WR)
        assert reading.value == hashlib.sha256(b"x" * total + b"end").hexdigest()


def test_non_blocking_is_told_as_both_modules_tell_it(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        sock.setblocking(False)
        for kind in (ssl.SSLWantReadError, BlockingIOError):
            with pytest.raises(kind):
                sock.recv(1)
        total, block = 0, b"x" * 50_000
        while True:
            try:
                total += sock.send(block)
            except ssl.SSLWantWriteError as error:
                assert isinstance(error, BlockingIOError)
                break
        with pytest.raises(BlockingIOError) as caught:
            sock.sendall(b"")  # what is left goes first, and does not fit
        assert caught.value.bytes_sent == 0  # type: ignore[attr-defined]
        sock.settimeout(20)
        with Beside(all_of, client, total + 50_000 + 3) as reading:
            sock.sendall(block + b"end")  # the same data again: none of it twice
        assert reading.value == hashlib.sha256(b"x" * (total + 50_000) + b"end").hexdigest()


def test_a_plain_thread_waits_for_the_other_reader(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, client):
        with Beside(sock.recv, 1) as first:
            with Beside(sock.recv, 1) as second:
                client.sendall(b"ab")
        assert {first.value, second.value} == {b"a", b"b"}
        sock._reading.acquire()
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(0.0)
        with pytest.raises(ssl.SSLWantReadError):
            sock.recv(1)
        sock._reading.release()


def test_two_green_readers_are_a_mistake(files: Files) -> None:
    def program() -> None:
        with conversation(files.served, files.client()) as (sock, client):
            waiting = jackfield.spawn(sock.recv, 1)
            jackfield.sleep(0)
            with pytest.raises(MisuseError, match="let one do it"):
                sock.recv(1)
            client.sendall(b"x")
            assert waiting.result(10) == b"x"

    jackfield.run(program)


def test_a_killed_sender_leaves_no_half_of_a_record(files: Files) -> None:
    def program() -> None:
        with conversation(files.served, files.client()) as (sock, client):
            sending = jackfield.spawn(sock.sendall, b"x" * 32 * MIB)
            jackfield.sleep(0.02)
            sending.kill()
            sending.join()
            assert sock._engine.unsent
            with Beside(lambda: b"".join(iter(lambda: client.recv(65536), b""))) as reading:
                sock.sendall(b"end")
                sock.shutdown(socket.SHUT_WR)
        got = reading.value
        assert got.endswith(b"xend") and set(got[:-3]) == {ord("x")} and len(got) < 32 * MIB

    jackfield.run(program)


# -- what TLS has no place for -----------------------------------------------------------------------------------------


def test_it_refuses_what_ssls_refuses(files: Files) -> None:
    with conversation(files.served, files.client()) as (sock, _):
        for call in (
            lambda: sock.recv(1, socket.MSG_PEEK), lambda: sock.recv_into(bytearray(1), 1, socket.MSG_PEEK),
            lambda: sock.send(b"x", 1), lambda: sock.sendall(b"x", 1), lambda: sock.recvfrom(1),
            lambda: sock.recvfrom_into(bytearray(1)), lambda: sock.sendto(b"x", ("127.0.0.1", 1)),
        ):  # fmt: skip
            with pytest.raises(ValueError):
                call()
        for call in (lambda: sock.recvmsg(1), lambda: sock.recvmsg_into([]), lambda: sock.sendmsg([]), sock.dup):
            with pytest.raises(NotImplementedError):
                call()
    with pytest.raises(TypeError, match="start_server"):
        TLSSocket()


def test_it_has_all_that_ssls_has() -> None:
    ours = {name for name in dir(Blocking) if not name.startswith("_")}
    later = {"get_verified_chain", "get_unverified_chain"}  # of Python 3.13
    assert {name for name in dir(ssl.SSLSocket) if not name.startswith("_")} - ours <= later


def test_before_the_handshake_it_knows_nothing(files: Files) -> None:
    from jackfield.tls.engine import TLSEngine

    ours, theirs = jackfield.socket.socketpair()
    with theirs, TLSSocket._over(ours, TLSEngine.server(files.served.choose)) as sock:
        assert sock.version() is sock.cipher() is sock.context is sock.session is sock.session_reused is None
        assert sock.server_side and sock.server_hostname is None and sock.pending() == 0
        assert sock.shared_ciphers() is sock.compression() is sock.selected_alpn_protocol() is None
        assert sock.get_channel_binding() is None
        with pytest.raises(ValueError, match="handshake"):
            sock.getpeercert()
        sock.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            sock.do_handshake()


# -- the settings of the socket below ----------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 20.0])
def test_settings_move_along(files: Files, patience: float | None) -> None:
    raw, other = connected()
    raw.settimeout(patience)
    number = raw.fileno()
    with Beside(wrapped, other, files.client()) as shaking, start_server(raw, files.served) as sock:
        assert sock.fileno() == number and sock.gettimeout() == patience and raw.fileno() == -1
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM) and isinstance(sock, socket.socket)
    shaking.value.close()


def test_a_socket_of_the_standard_library(files: Files) -> None:
    ours, other = socket.socketpair()
    ours.settimeout(20)
    with Beside(wrapped, other, files.client()) as shaking, start_server(ours, files.served) as sock:  # type: ignore[arg-type]
        assert sock.gettimeout() == 20
        sock.sendall(b"x")
    assert shaking.value.recv(9) == b"x"
    shaking.value.close()


def test_its_place_in_the_reactor_moves_along(files: Files) -> None:
    def program() -> None:
        raw, other = connected()
        with Beside(other.sendall, b"plain"):
            assert raw.recv(9) == b"plain"
        channel = raw._registered
        with Beside(wrapped, other, files.client()) as shaking, start_server(raw, files.served) as sock:
            assert sock._registered is channel is not None and channel.poller is not None
            assert sock.received > 5
        shaking.value.close()

    jackfield.run(program)


# -- coroutines --------------------------------------------------------------------------------------------------------


def awaited(files: Files, program: Any) -> None:
    """``program(sock, client)`` with the coroutine's face and Python's own client."""

    async def main() -> None:
        raw, other = connected()
        with Beside(wrapped, other, files.client()) as shaking:
            sock = await astart_server(AsyncSocket(raw), files.served)
        with shaking.value as client:
            try:
                await program(sock, client)
            finally:
                sock.close()

    asyncio.run(main())


def test_lines_and_blocks(files: Files) -> None:
    async def program(sock: Any, client: Any) -> None:
        reader, writer = AsyncReader(sock), AsyncWriter(sock)
        client.sendall(b"one\ntw")
        client.sendall(b"o\n12345")
        assert [await reader.readline(), await reader.readline(), await reader.readexactly(5)] == [
            b"one\n", b"two\n", b"12345",
        ]  # fmt: skip
        await writer.write(b"answer")
        assert client.recv(9) == b"answer"

    awaited(files, program)


def test_what_does_not_wait_is_the_sockets_own(files: Files) -> None:
    async def program(sock: Any, client: Any) -> None:
        assert sock.version() == "TLSv1.3" and sock.getpeername() == client.getsockname()
        assert repr(sock).startswith("<AsyncTLSSocket of <jackfield.tls")
        client.sendall(b"hello")
        buffer = bytearray(9)
        assert await sock.recv_into(buffer) == 5 and buffer[:5] == b"hello"
        assert await sock.recv(0) == b"" and await sock.send(bytearray(b"abc")) == 3 and client.recv(9) == b"abc"
        for call in (sock.recv(-1), sock.recv(1, 2), sock.recvfrom(1), sock.sendto(b"", 1), sock.recv_into(buffer, 10)):
            with pytest.raises(ValueError):
                await call
        with pytest.raises(ValueError):
            await sock.sendall(b"x", 1)
        sock.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            await sock.sendall(b"x")

    awaited(files, program)


def test_a_cancelled_sender_leaves_no_half_of_a_record(files: Files) -> None:
    async def program(sock: Any, client: Any) -> None:
        async def send() -> None:
            await sock.sendall(b"x" * 32 * MIB)

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.02)
        with pytest.raises(MisuseError, match="another task"):
            await sock.sendall(b"y" * 100)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert sock._engine.unsent
        with Beside(lambda: b"".join(iter(lambda: client.recv(65536), b""))) as reading:
            await sock.sendall(b"end")
            await sock.aclose()
        assert reading.value.endswith(b"end") and reading.value.startswith(b"xxx")
        assert set(reading.value[:-3]) <= {ord("x"), ord("y")} and len(reading.value) < 32 * MIB

    awaited(files, program)


def test_a_small_message_into_a_full_kernel(files: Files) -> None:
    async def program(sock: Any, client: Any) -> None:
        total = 0
        with pytest.raises(TimeoutError):
            while True:
                async with asyncio.timeout(0.02):
                    await sock.sendall(b"z" * 16000)
                total += 16000
        total += 16000  # it was cancelled, but what was encrypted is part of the stream
        with Beside(all_of, client, total + 3) as reading:
            await sock.sendall(b"end")
        assert reading.value == hashlib.sha256(b"z" * total + b"end").hexdigest()

    awaited(files, program)


def test_a_task_of_asyncios_own_may_use_it(files: Files) -> None:
    raw, other = connected()

    def talk() -> None:
        with wrapped(other, files.client()) as client:
            client.sendall(b"hello")
            assert client.recv(9) == b"HELLO"

    async def main() -> None:
        await asyncio.create_task(aecho(raw, files.served))

    with Beside(talk):
        asyncio.run(main())


def test_a_goodbye_waits_no_longer_than_the_patience(files: Files) -> None:
    """A peer that reads nothing cannot hold the one who ends the connection."""
    with conversation(files.served, files.client()) as (sock, client):
        sock.settimeout(0.02)
        in_vain = 0
        while in_vain < 5:  # the kernel's buffers grow a while, not at every moment
            before = sock.sent
            with pytest.raises(TimeoutError):
                sock.sendall(b"x" * 32 * MIB)
            in_vain = 0 if sock.sent > before else in_vain + 1
        sock.shutdown(socket.SHUT_WR)
        assert sock._engine.unsent  # it was not said
        sock.close()
        client.close()
