"""Bytes and messages: a 4-byte big-endian length, then one msgpack message. No pipes here.

A frame longer than MAX_FRAME_BYTES, or one that does not decode into a known message, means that the other side can not
be trusted any more: the reader ends that worker (the front) or itself (the worker).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from slotwise.workers.protocol import Command, Message, Report

MAX_FRAME_BYTES = 64 * 1024 * 1024

_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_report_decoder = msgspec.msgpack.Decoder(Report)


class FrameError(Exception):
    """Raised when bytes are not a frame, or a frame is not a message."""


def encode(message: Message) -> bytes:
    """One message as one frame."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"message of {len(payload)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(payload)) + payload


class FrameBuffer:
    """Collects bytes as they arrive and gives out the payloads that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes; yields each complete payload in order.

        Raises:
            FrameError: the announced length is over the limit.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield payload


def decode_command(payload: bytes) -> Command:
    """Raises FrameError if the payload is not a command."""
    try:
        command: Command = _command_decoder.decode(payload)
        return command
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a command: {error}") from error


def decode_report(payload: bytes) -> Report:
    """Raises FrameError if the payload is not a report."""
    try:
        report: Report = _report_decoder.decode(payload)
        return report
    except msgspec.MsgspecError as error:
        raise FrameError(f"not a report: {error}") from error
