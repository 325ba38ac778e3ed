"""examples/tcp_proxy.py in front of HAProxy and of nginx, which are told who the client is."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from example_support import SECONDS, both_ways, command, needs, port_of, run, served

from ports import port_to_bind


@contextlib.contextmanager
def haproxy(folder: Path) -> Iterator[int]:
    """One that takes PROXY headers, and answers with who it was told that the client is; its port."""
    program, config = needs("haproxy", "haproxy"), folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config.write_text(
            f"""
defaults
    mode http
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend front
    bind fd@{listener.fileno()} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst]"
"""
        )
        with ended([program, "-db", "-f", str(config)], pass_fds=(listener.fileno(),)):
            yield listener.getsockname()[1]


@contextlib.contextmanager
def nginx(folder: Path) -> Iterator[int]:
    program, config = needs("nginx", "nginx-light"), folder / "nginx.conf"
    with port_to_bind() as port:
        config.write_text(
            f"""
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        default_type text/plain;
        return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr";
    }}
}}
"""
        )
        with ended([program, "-p", str(folder), "-c", str(config)]) as process:
            for _ in range(1000):
                try:
                    socket.create_connection(("127.0.0.1", port), SECONDS).close()
                    break
                except ConnectionRefusedError:  # nothing tells of a port that opens
                    assert process.poll() is None, process.communicate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.02)
            yield port


@contextlib.contextmanager
def ended(words: list[str], pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=pass_fds)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@both_ways
@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("backend", [haproxy, nginx])
def test_the_target_is_told_who_the_client_is(
    how: str, version: str, backend: Callable[[Path], contextlib.AbstractContextManager[int]], tmp_path: Path
) -> None:
    curl = needs("curl", "curl")
    with backend(tmp_path) as port:
        target = f"127.0.0.1:{port}"
        variables = {"PROXY_TARGET": target, "PROXY_HEADER": version}
        addresses = [target, "127.0.0.2:0"] if how == "python" else ["127.0.0.2:0"]
        more = int(how == "python")
        with served(how, "tcp_proxy:Proxy", *addresses, mode="green", more=more, variables=variables) as it:
            url = f"http://127.0.0.2:{port_of(it)}/"
            told = command(curl, "-sS", "--interface", "127.0.0.7", "-w", " %{local_port}", url).stdout.decode().split()
            assert told == ["127.0.0.7", told[3], "127.0.0.2", told[3]]


def test_without_a_header_such_a_target_refuses(tmp_path: Path) -> None:
    with haproxy(tmp_path) as port, served("python", "tcp_proxy:Proxy", f"127.0.0.1:{port}", "0", more=1) as it:
        command(needs("curl", "curl"), "-sS", f"http://127.0.0.1:{port_of(it)}/", code=52)  # an empty reply


def test_there_are_two_versions() -> None:
    code, _, errors = run("tcp_proxy.py", "127.0.0.1:9", "0", variables={"PROXY_HEADER": "3"})
    assert (code, errors) == (1, "PROXY_HEADER is 1 or 2, not '3'\n")
