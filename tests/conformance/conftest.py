"""What the conformance tests share: how a check becomes a test, and what the machine lacks."""

from __future__ import annotations

import socket as _socket_std
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest

from jackfield.testing import NotPromised, Suite


@cache
def has_ipv6() -> bool:
    """Whether this machine has the IPv6 loopback address."""
    try:
        with _socket_std.socket(_socket_std.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def needs_ipv6() -> Callable[[str], None]:
    """Skip a test of an IPv6 transport or address where the machine has no ::1."""

    def skip_without(transport: str) -> None:
        if ("6" in transport.partition(":")[0] or "[" in transport) and not has_ipv6():
            pytest.skip("this machine has no ::1")

    return skip_without


@pytest.fixture
def check() -> Callable[[Suite[Any], str, Any, Mapping[str, str]], None]:
    """Run one check of a suite. What a factory does not promise has to be listed by the test, and nothing more."""

    def run(suite: Suite[Any], name: str, factory: Any, not_promised: Mapping[str, str]) -> None:
        try:
            suite.run_one(name, factory, timeout=15)
        except NotPromised as reason:
            assert name in not_promised, f"{factory!r} suddenly does not promise {name}: {reason}"
        else:
            assert name not in not_promised, f"{factory!r} passes {name}: take it off the list"

    return run
