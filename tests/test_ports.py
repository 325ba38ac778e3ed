"""The ports that tests are given: refused where they are to be, and nobody else's meanwhile."""

from __future__ import annotations

import contextlib
import socket

import pytest

from ports import ABOVE, LOOPBACK, LOWEST, closed_port, port_to_bind


def test_a_closed_port_refuses_and_is_taken() -> None:
    with closed_port() as number:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, number), 5)
        with pytest.raises(OSError, match="in use"):
            socket.create_server((LOOPBACK, number))


def test_a_closed_udp_port_refuses_and_is_taken() -> None:
    with closed_port(socket.SOCK_DGRAM) as number, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(5)
        sender.connect((LOOPBACK, number))
        sender.send(b"anybody there?")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, number))


def test_a_udp_port_that_is_only_bound_would_not_refuse() -> None:
    """The broken case: what is sent there is taken, and the sender waits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((LOOPBACK, 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(bound.getsockname())
            sender.send(b"anybody there?")
            with pytest.raises(BlockingIOError):
                sender.recv(1)


def test_ports_to_bind_can_be_bound_and_are_given_once() -> None:
    with contextlib.ExitStack() as given:
        numbers = [given.enter_context(port_to_bind()) for _ in range(200)]
        assert len(set(numbers)) == 200
        for number in numbers:
            assert LOWEST <= number < ABOVE
            given.enter_context(socket.create_server((LOOPBACK, number)))
            given.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind((LOOPBACK, number))


def test_the_kernel_gives_none_of_them_to_who_asks_for_any() -> None:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            assert int(file.read().split()[0]) >= ABOVE
    except FileNotFoundError:
        pytest.skip("this system does not tell the range")
