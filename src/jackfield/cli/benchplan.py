"""From the flags of ``bench`` to what is to be done: the plan, and whom to trust where it is TLS."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from jackfield.address import Address
from jackfield.bench.plan import MOST_BYTES, Plan, default_payload
from jackfield.cli.arguments import UsageError
from jackfield.cli.script import parse_step
from jackfield.cli.tlsflags import terms_of

__all__ = ["plan_of", "security_of"]

SIZE, DURATION, WARMUP, TIMEOUT, LOST_AFTER = 64, 10.0, 1.0, 5.0, 1.0


def plan_of(address: Address, options: argparse.Namespace) -> Plan:
    """What the flags mean together.

    :raises UsageError: they contradict each other, or a file cannot be read.
    :raises PlanError: what they ask for cannot be done.
    """
    given = [flag for flag in ("size", "payload", "payload_file") if getattr(options, flag) is not None]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1].replace('_', '-')} both say what is sent: choose one")
    if options.payload is not None:
        payload = _bytes_of("--payload", options.payload)
    elif options.payload_file is not None:
        try:
            with open(options.payload_file, "rb") as file:
                payload = file.read()
        except OSError as error:
            raise UsageError(f"--payload-file {options.payload_file}: {error.strerror}") from None
    else:
        amount = SIZE if options.size is None else options.size
        if amount > MOST_BYTES:
            raise UsageError(f"--size is {MOST_BYTES >> 20}M at most, not {amount} bytes")
        payload = default_payload(amount)
    expect: str | bytes = options.expect
    if options.expect.startswith("="):
        expect = _bytes_of("--expect", options.expect[1:])
    elif expect not in ("upper", "same", "any"):
        wanted = options.expect
        raise UsageError(f"--expect {wanted!r}: write upper, same, any, or ={wanted} for that very text")
    counted = options.requests is not None
    if counted and options.duration is not None:
        raise UsageError("-d and -n both say when to stop: write one of them")
    timeout = LOST_AFTER if address.is_datagram else TIMEOUT
    return Plan(
        address=address,
        connections=options.connections,
        requests=options.requests,
        rate=options.rate,
        workers=options.workers,
        payload=payload,
        framing=options.framing,
        expect=expect,
        pipeline=options.pipeline,
        connect_per_request=options.connect_per_request,
        ramp=options.ramp,
        duration=None if counted else DURATION if options.duration is None else options.duration,
        warmup=options.warmup if options.warmup is not None else 0.0 if counted else WARMUP,
        timeout=timeout if options.timeout is None else options.timeout,
    )


def _bytes_of(flag: str, text: str) -> bytes:
    try:
        step = parse_step("send", text)
    except UsageError as error:
        raise UsageError(str(error).replace("--send", flag, 1)) from None
    assert isinstance(step, bytes)
    return step


def security_of(address: Address, options: argparse.Namespace) -> Callable[[Any], Any] | None:
    """What makes a TLS connection, its handshake still to come, of a socket; None for plaintext.

    :raises UsageError: the flags contradict each other, or a file cannot be used.
    """
    terms = terms_of(options, address)
    if terms is None:
        return None
    context, name = terms

    def secure(sock: Any) -> Any:
        return context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)

    return secure
