"""The header reader: what real files say, and that no file can make it run away."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.loads import demo_model_path
from slotwise.memory import gguf
from slotwise.memory.gguf import GGUFError, GGUFHeader, read_header

U32, STRING, ARRAY = 4, 8, 9


def _text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def _entry(key: str, kind: int, data: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + data


def _list(kind: int, count: int, data: bytes) -> bytes:
    return struct.pack("<IQ", kind, count) + data


def _file(*entries: bytes, version: int = 3, tensors: int = 0, count: int | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(entries) if count is None else count)
    return head + b"".join(entries)


def _read(folder: Path, data: bytes) -> GGUFHeader:
    path = folder / "m.gguf"
    path.write_bytes(data)
    return read_header(str(path))


def test_the_demo_models_header() -> None:
    header = read_header(demo_model_path())

    assert (header.architecture, header.layers, header.integer("context_length", 0)) == ("llama", 30, 8192)
    assert header.value("attention.head_count_kv") == 3
    assert header.file_bytes == Path(demo_model_path()).stat().st_size
    # 49,152 strings are skipped over, not kept.
    assert header.metadata["tokenizer.ggml.tokens"] is None
    assert header.lengths["tokenizer.ggml.tokens"] == 49152
    assert len(header.tensors) == 272
    end = header.data_offset + max(tensor.offset + tensor.nbytes for tensor in header.tensors)
    assert end <= header.file_bytes < end + 32


@pytest.mark.parametrize(
    ("code", "kind", "value"),
    [("B", 0, 255), ("b", 1, -1), ("H", 2, 65535), ("h", 3, -2), ("I", 4, 7), ("i", 5, -7), ("f", 6, 0.5)]
    + [("?", 7, True), ("Q", 10, 2**63), ("q", 11, -(2**40)), ("d", 12, 1e300)],
)
def test_every_scalar(tmp_path: Path, code: str, kind: int, value: object) -> None:
    assert _read(tmp_path, _file(_entry("k", kind, struct.pack("<" + code, value)))).metadata == {"k": value}


def test_texts_and_lists(tmp_path: Path) -> None:
    header = _read(
        tmp_path,
        _file(
            _entry("text", STRING, _text("héllo")),
            _entry("no text", STRING, _text(b"\xff")),
            _entry("numbers", ARRAY, _list(U32, 2, struct.pack("<II", 1, 2))),
            _entry("texts", ARRAY, _list(STRING, 2, _text("a") + _text("b"))),
            _entry("none", ARRAY, _list(U32, 0, b"")),
        ),
    )

    assert header.metadata == {"text": "héllo", "no text": "\ufffd", "numbers": [1, 2], "texts": ["a", "b"], "none": []}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends within magic"),
        (b"GGU", "ends within magic"),
        (b"PK\x03\x04 and more", "begin with 'GGUF'"),
        (_file(version=1), "version 1"),
        (_file(version=2**31), "version 2147483648"),
        (_file()[:20], "ends within metadata count"),
        (_file(count=2**63), "metadata entries"),
        (_file(tensors=2**63), "tensors"),
        (_file(count=1), "ends within a metadata key"),
        (_file(_entry("k", 99, b"")), "unknown type 99"),
        (_file(_entry("k", U32, b"\0")), "ends within 'k'"),
        (_file(_entry("k", STRING, struct.pack("<Q", 2**62))), "bytes long"),
        (_file(_entry("k", STRING, struct.pack("<Q", 1000))), "ends within 'k'"),
        (_file(_entry("k", ARRAY, _list(U32, 2**60, b""))), "announces"),
        (_file(_entry("k", ARRAY, _list(STRING, 2**60, b""))), "announces"),
        (_file(_entry("k", ARRAY, _list(ARRAY, 1, _list(U32, 0, b"")))), "unknown type 9"),
        (_file(_entry("k", ARRAY, _list(99, 1, b"\0"))), "unknown type 99"),
        (_file(struct.pack("<Q", 2**63)), "bytes long"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(GGUFError) as caught:
        _read(tmp_path, data)

    assert words in str(caught.value)
    assert "m.gguf" in str(caught.value)
    assert "at byte" in str(caught.value)


def test_long_lists_are_skipped_whole(tmp_path: Path) -> None:
    count = gguf.MAX_KEPT_ITEMS + 1
    header = _read(tmp_path, _file(_entry("a", ARRAY, _list(U32, count, b"\1" * 4 * count)), _entry("b", 7, b"\1")))

    assert header.metadata == {"a": None, "b": True}


@given(st.data())
def test_no_damage_makes_it_fail_otherwise(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    good = _file(
        _entry("general.architecture", STRING, _text("llama")),
        _entry("llama.block_count", U32, struct.pack("<I", 2)),
        _entry("llama.attention.head_count", ARRAY, _list(U32, 2, struct.pack("<II", 4, 4))),
        _entry("tokens", ARRAY, _list(STRING, 3, _text("a") + _text("bb") + _text("ccc"))),
    )
    start = data.draw(st.integers(4, len(good)))
    patch = data.draw(st.binary(max_size=12))
    damaged = good[:start] + patch + good[start + data.draw(st.integers(0, 12)) :]
    try:
        header = _read(tmp_path_factory.getbasetemp(), damaged)
        assert header.layers <= gguf.MAX_LAYERS
    except GGUFError:
        pass


@pytest.mark.parametrize("value", [-1, True, 0.5, "many", None, [1]])
def test_a_count_that_is_none_is_the_default(value: Any) -> None:
    assert GGUFHeader(3, {"unknown.block_count": value}, (), 0).integer("block_count", 5) == 5


def test_more_layers_than_any_model_has_are_refused() -> None:
    header = GGUFHeader(3, {"unknown.block_count": 2**40}, (), 0)

    with pytest.raises(GGUFError, match="1099511627776 layers"):
        assert header.layers


# ---- tensors

F32, Q8_0 = 0, 8


def _tensor(name: str | bytes, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _text(name) + sizes + struct.pack("<IQ", kind, offset)


def _with_tensors(*tensors: bytes, data: int, alignment: int | None = None, count: int | None = None) -> bytes:
    entries = [] if alignment is None else [_entry("general.alignment", U32, struct.pack("<I", alignment))]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors) if count is None else count, len(entries))
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % (alignment or 32)) + bytes(data)


def test_tensors_are_found_with_their_sizes(tmp_path: Path) -> None:
    """In any order; of a type that is not known, up to the next."""
    header = _read(
        tmp_path,
        _with_tensors(
            _tensor("b", (64, 3), Q8_0, 256), _tensor("a", (5, 2), F32, 0), _tensor("new", (7,), 99, 64), data=512
        ),
    )

    found = {tensor.name: (tensor.shape, tensor.nbytes, tensor.elements) for tensor in header.tensors}
    assert found == {"b": ((64, 3), 3 * 2 * 34, 192), "a": ((5, 2), 40, 10), "new": ((7,), 192, 7)}
    assert header.data_offset + 512 == header.file_bytes


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_with_tensors(data=0, count=1), "ends within tensor ''"),
        (_with_tensors(_tensor("x" * 64, (1,)), data=32), "longer than 63 bytes"),
        (_with_tensors(_tensor("t", (1, 1, 1, 1, 1)), data=32), "5 dimensions, more than 4"),
        (_with_tensors(_tensor("t", (2**60,)), data=32), "more than any file holds"),
        (_with_tensors(_tensor("t", (2**40, 2**40)), data=32), "more than any file holds"),
        (_with_tensors(_tensor("t", (33,), Q8_0), data=64), "no whole blocks of q8_0"),
        (_with_tensors(_tensor("t", (8,), F32, 4), data=64), "begins at 4, no multiple of 32"),
        (_with_tensors(_tensor("t", (9,)), data=32), "the file is cut off"),
        (_with_tensors(_tensor("t", (8,), F32, 2**63), data=32), "the file is cut off"),
        (_with_tensors(_tensor("t", (9,)), _tensor("u", (8,), F32, 32), data=64), "overlaps the next one"),
        (_with_tensors(_tensor("t", (8,)), _tensor("t", (8,), F32, 32), data=64), "the same name"),
        (_with_tensors(_tensor("t", (8,)), data=32, alignment=48), "no power of two"),
        (_file(_entry("k", U32, b"\0\0\0\0"), _entry("k", U32, b"\0\0\0\0")), "there twice"),
    ],
)
def test_a_table_of_tensors_that_can_not_be_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(GGUFError) as caught:
        _read(tmp_path, data)

    assert words in str(caught.value)


@given(st.data())
def test_no_damage_to_the_table_makes_it_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    good = _with_tensors(_tensor("a", (64, 3), Q8_0), _tensor("b", (5, 2), F32, 224), data=320)
    start = data.draw(st.integers(4, len(good)))
    damaged = good[:start] + data.draw(st.binary(max_size=12)) + good[start + data.draw(st.integers(0, 12)) :]
    try:
        header = _read(tmp_path_factory.getbasetemp(), damaged)
        room = header.file_bytes - header.data_offset
        assert all(tensor.offset + tensor.nbytes <= room for tensor in header.tensors)
    except GGUFError:
        pass


def test_a_list_of_texts_that_never_ends_is_refused(tmp_path: Path) -> None:
    texts = _list(STRING, gguf.MAX_KEPT_ITEMS + 1, _text("a") * gguf.MAX_KEPT_ITEMS)

    with pytest.raises(GGUFError, match="ends within 'k'"):
        _read(tmp_path, _file(_entry("k", ARRAY, texts)))


def test_more_short_lists_than_any_model_has_are_refused_soon(tmp_path: Path) -> None:
    short = _list(0, gguf.MAX_KEPT_ITEMS, bytes(gguf.MAX_KEPT_ITEMS))
    entries = [_entry(f"k{number}", ARRAY, short) for number in range(300)]

    with pytest.raises(GGUFError, match="more than 1000000 items"):
        _read(tmp_path, _file(*entries))
