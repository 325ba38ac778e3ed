"""What the endpoint tells of a server, and what it does to it."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import pytest
from admin_support import SECONDS, ask, client_of, say, seen

from jackfield import Server
from jackfield.admin.api import ROUTES
from jackfield.admin.totals import totals
from jackfield.admission import PeerList

MODES = ["thread", "green", "async"]


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_is_seen_counted_and_closed(mode: str) -> None:
    with seen(mode) as (server, endpoint), client_of(server) as client:
        assert say(client, b"hello\n") == b"HELLO\n"
        (row,) = ask(endpoint, "GET", "/connections").json["rows"]
        assert row["peer"] == "{}:{}".format(*client.getsockname())
        assert (row["received"], row["sent"], row["waits"], row["tls"]) == (6, 6, "to receive", None)
        (told,) = ask(endpoint, "GET", "/stats").json["servers"]
        assert (told["connections"], told["accepted"], told["received"], told["sent"]) == (1, 1, 6, 6)
        assert told["peers"] == {"127.0.0.1": 1}
        closed = ask(endpoint, "POST", "/connections/close", {"id": row["id"]})
        assert closed.json == {"closed": row["peer"]}
        assert client.recv(100) == b""
        until(lambda: not server.connections)
        assert ask(endpoint, "POST", "/connections/close", {"id": row["id"]}).json == {"closed": None}
        time.sleep(0.6)  # what is told may be half a second old
        (told,) = ask(endpoint, "GET", "/stats").json["servers"]
        assert (told["connections"], told["received"], told["ends"]) == (0, 6, {"closed": 1})
        assert sum(told["durations"]) == 1


@pytest.mark.parametrize("mode", MODES)
def test_errors_are_grouped_by_where_they_were_raised(mode: str) -> None:
    with seen(mode) as (server, endpoint):
        for _ in range(3):
            with client_of(server) as client:
                assert say(client, b"fail\n") == b""
        until(lambda: server.info().handler_errors == 3)
        told = ask(endpoint, "GET", "/log").json["0"]
        (group,) = told["errors"]
        assert (group["type"], group["count"]) == ("ValueError", 3)
        assert "admin_support.py" in group["traceback"]
        assert "\x1b" not in json.dumps(told), "what a peer can bring about is escaped"
        assert [record["level"] for record in told["records"]].count("error") == 3


def test_many_connections_are_sorted_filtered_and_cut() -> None:
    with seen("green") as (server, endpoint):
        clients = [socket.create_connection(server.server_address[:2]) for _ in range(210)]
        try:
            until(lambda: len(server.connections) == 210)
            clients[7].sendall(b"x" * 500)
            until(lambda: any(one.received == 500 for one in server.connections))
            told = ask(endpoint, "GET", "/connections?sort=received&limit=3").json
            assert (told["total"], told["found"], len(told["rows"])) == (210, 210, 3)
            assert told["rows"][0]["received"] == 500
            assert len(ask(endpoint, "GET", "/connections").json["rows"]) == 200
            port = clients[3].getsockname()[1]
            told = ask(endpoint, "GET", f"/connections?filter=127.0.0.1:{port}").json
            assert [row["peer"] for row in told["rows"]] == [f"127.0.0.1:{port}"]
            ages = [row["age"] for row in ask(endpoint, "GET", "/connections?sort=age").json["rows"]]
            assert ages == sorted(ages, reverse=True)
            numbers = [row["id"] for row in ask(endpoint, "GET", "/connections?sort=id").json["rows"]]
            assert numbers == sorted(numbers)
        finally:
            for client in clients:
                client.close()


def test_ready_until_it_drains_and_again_when_it_resumes() -> None:
    with seen() as (server, endpoint):
        assert ask(endpoint, "GET", "/readyz").status == 200
        assert ask(endpoint, "POST", "/drain").json == {"states": ["suspended"]}
        told = ask(endpoint, "GET", "/readyz")
        assert (told.status, told.body) == (503, b"suspended\n")
        assert ask(endpoint, "GET", "/livez").status == 200
        assert ask(endpoint, "POST", "/resume").json == {"states": ["serving"]}
        assert ask(endpoint, "GET", "/readyz").status == 200
        with client_of(server) as client:
            assert say(client, b"hello\n") == b"HELLO\n"


def test_stop_stops() -> None:
    with seen() as (server, endpoint):
        assert ask(endpoint, "POST", "/stop").status == 200
        assert server.wait_stopped(SECONDS)
        assert ask(endpoint, "GET", "/readyz").status == 503


def test_bans_and_limits_hold_at_once() -> None:
    with seen() as (server, endpoint):
        told = ask(endpoint, "POST", "/bans", {"peer": "127.0.0.1"})
        assert told.status == 400 and "exempt from bans" in told.json["error"]
        server.limits = server.limits.replace(exempt=PeerList())
        assert ask(endpoint, "POST", "/bans", {"peer": "127.0.0.1", "seconds": 60}).status == 200
        (ban,) = ask(endpoint, "GET", "/bans").json
        assert ban["address"] == "127.0.0.1" and 0 < ban["seconds"] <= 60
        with client_of(server) as client:
            assert client.recv(10) == b""
        assert ask(endpoint, "POST", "/bans/lift", {"peer": "127.0.0.1"}).json == {"unbanned": True}
        with client_of(server) as client:
            assert say(client, b"hello\n") == b"HELLO\n"
        told = ask(endpoint, "POST", "/limits", {"values": {"max_line": 3, "accept_rate": "100/s"}})
        assert (told.json["max_line"], server.limits.max_line) == (3, 3)
        assert server.limits.accept_rate is not None
        told = ask(endpoint, "POST", "/limits", {"values": {"max_lines": 3}})
        assert told.status == 400 and "there is no limit 'max_lines'" in told.json["error"]


def test_where_everything_is() -> None:
    with seen("async") as (server, endpoint), client_of(server) as client:
        assert say(client, b"hello\n") == b"HELLO\n"
        told = ask(endpoint, "GET", "/debug/stacks").json["0"]
        assert any("AsyncLines.handle" in frame for group in told["coroutines"] for frame in group["frames"])
        assert any("_serve_in_thread" in frame for group in told["threads"] for frame in group["frames"])


def test_green_threads_have_stacks_too() -> None:
    with seen("green") as (server, endpoint), client_of(server) as client:
        assert say(client, b"hello\n") == b"HELLO\n"
        told = ask(endpoint, "GET", "/debug/stacks").json["0"]
        assert any(frame.endswith("Lines.handle") for group in told["greens"] for frame in group["frames"])


def test_events_come_once_a_second_and_end_with_the_server() -> None:
    with seen() as (_, endpoint):
        told = ask(endpoint, "GET", "/events?count=2")
        events = [json.loads(line[6:]) for line in told.body.decode().splitlines() if line.startswith("data: ")]
        assert len(events) == 2
        assert events[0]["time"] < events[1]["time"]
        ended = threading.Event()

        def look() -> None:
            ask(endpoint, "GET", "/events")
            ended.set()

        threading.Thread(target=look, daemon=True).start()
        until(lambda: len(endpoint.server.connections) == 1)
    assert ended.wait(SECONDS), "who watches does not keep it from ending"


def test_metrics_are_what_the_official_parser_takes() -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install prometheus-client")
    with seen() as (server, endpoint), client_of(server) as client:
        assert say(client, b"hello\n") == b"HELLO\n"
        told = ask(endpoint, "GET", "/metrics")
        assert told.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        found = {
            sample.name: sample
            for family in parser.text_string_to_metric_families(told.body.decode())
            for sample in family.samples
        }
        assert found["jackfield_connections_accepted_total"].value == 1
        assert found["jackfield_bytes_received_total"].value == 6
        assert found["jackfield_connections_active"].labels == {"server": "0:lines"}
        assert not any("127.0.0.1:" in value for s in found.values() for key, value in s.labels.items()
                       if key not in ("listener",)), "no peer is a label"  # fmt: skip


def test_every_look_answers() -> None:
    """And the broken case is the one that the table has no entry for."""
    with seen() as (_, endpoint):
        for route in ROUTES:
            if route.method == "GET":
                path = "/events?count=1" if route.path == "/events" else route.path
                told = ask(endpoint, "GET", path)
                assert told.status == 200, route.path
                assert told.headers["Content-Type"].startswith(route.kind)
                head = ask(endpoint, "HEAD", path)
                assert (head.status, head.body) == (200, b"")
        assert ask(endpoint, "GET", "/nix").status == 404


def test_several_processes_are_one_server_in_sum() -> None:
    with seen() as (server, endpoint), client_of(server) as client:
        assert say(client, b"hello\n") == b"HELLO\n"
        one = endpoint._desk.stats()
        told = totals([one, one, one])
        (merged,) = told["servers"]
        assert (merged["connections"], merged["received"], merged["peers"]) == (3, 18, {"127.0.0.1": 3})
        assert merged["state"] == "serving"
        one = json.loads(json.dumps(one))
        one["servers"][0]["state"] = "draining"
        assert totals([endpoint._desk.stats(), one])["servers"][0]["state"] == "draining"


def test_closing_it_leaves_the_server_as_it_was() -> None:
    with seen() as (server, endpoint):
        endpoint.close()
        endpoint.close()
        assert not server._events.wanted
        with client_of(server) as client:
            assert say(client, b"hello\n") == b"HELLO\n"


def test_an_address_in_use_leaves_nothing_behind() -> None:
    with seen() as (server, endpoint):
        with pytest.raises(Exception, match="in use"):
            type(endpoint)([server], endpoint.addresses[0])
        assert len(server._events._subscribers) == 1


def test_a_server_that_nobody_looks_at_has_no_subscriber() -> None:
    with Server(object, "tcp://127.0.0.1:0", mode="thread") as server:
        assert not server._events.wanted
