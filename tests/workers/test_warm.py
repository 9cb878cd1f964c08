"""Named prefixes: computed once, kept outside the context, restored for whoever begins with one."""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotwise.request import FinishReason, SamplingParams
from slotwise.workers.fake import FakeModel
from slotwise.workers.loop import StepLoop
from slotwise.workers.model import Chunk
from slotwise.workers.prepare import PromptPreparer
from slotwise.workers.protocol import Delta, LoadModel, NamedPrefix, StartSequence
from slotwise.workers.warm import WarmPrefix, WarmPrefixes, warm_up_prefixes
from slotwise.workers.warm_files import WarmFiles

SYSTEM = "You answer in one sentence, and you are always polite to whoever asks. " * 2
LAYOUTS = pytest.mark.parametrize(
    ("layout", "reuse"), [("unified", "partial"), ("split", "partial"), ("unified", "continue")]
)


class CountingModel(FakeModel):
    """Counts the tokens that it computes."""

    computed = 0

    def decode(self, chunks: Sequence[Chunk]) -> int:
        self.computed += sum(len(chunk.tokens) for chunk in chunks)
        return super().decode(chunks)


def _load(
    folder: str = "", layout: str = "unified", reuse: str = "partial", systems: tuple[str, ...] = (SYSTEM,)
) -> LoadModel:
    named = tuple(NamedPrefix(f"p{index}", system) for index, system in enumerate(systems))
    cells = 2000 if layout == "split" else 1000
    return LoadModel(
        *("fake", f"fake:eos_after=9,reuse={reuse}", 4, 500, cells),
        n_batch=32,
        kv_layout=layout,
        prefixes=named,
        prefix_cache=folder,
    )


def _warm(load: LoadModel) -> tuple[CountingModel, WarmPrefixes, PromptPreparer]:
    model = CountingModel(load)
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    return model, warm_up_prefixes(model, preparer.prepare, load, lambda done: None), preparer


def _answer(loop: StepLoop, name: str, tokens: list[int]) -> list[Delta]:
    loop.prepared(name, list(tokens))
    loop.start(StartSequence(name, 20, SamplingParams(temperature=0)))
    deltas: list[Delta] = []
    while not loop.idle:
        deltas += loop.step().deltas
        loop.check_invariants()
    return deltas


def _text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def _cached(deltas: list[Delta]) -> int:
    assert deltas[-1].usage is not None
    return deltas[-1].usage.cached_tokens


@LAYOUTS
def test_whoever_begins_with_one_finds_it_computed(layout: str, reuse: str) -> None:
    model, warm, _ = _warm(_load(layout=layout, reuse=reuse))
    prefix = list(f"<system>{SYSTEM}\n<user>".encode())
    computed = model.computed
    loop = StepLoop(model, warm)
    for number in range(6):
        prompt = [*prefix, *f"{number} is the question\n<assistant>".encode()]
        deltas = _answer(loop, f"r{number}", prompt)

        assert _cached(deltas) == len(prefix)
        assert _text(deltas) == _text(_answer(StepLoop(FakeModel(_load())), "alone", prompt))
    assert model.computed - computed < 6 * 60


@LAYOUTS
def test_it_is_there_again_after_others_had_all_rows_and_cells(layout: str, reuse: str) -> None:
    model, warm, _ = _warm(_load(layout=layout, reuse=reuse))
    prefix = list(f"<system>{SYSTEM}\n<user>".encode())
    loop = StepLoop(model, warm)
    for number in range(12):
        _answer(
            loop, f"other{number}", list(f"{number} is a prompt of its own, which is long enough to be kept".encode())
        )

    assert _cached(_answer(loop, "r", [*prefix, *b"now"])) == len(prefix)


def test_many_at_once_and_none_waits_for_a_twin() -> None:
    model, warm, _ = _warm(_load(layout="split"))
    prefix = list(f"<system>{SYSTEM}\n<user>".encode())
    loop = StepLoop(model, warm)
    for name in "abcd":
        loop.prepared(name, [*prefix, *name.encode() * 5])
        loop.start(StartSequence(name, 20, SamplingParams(temperature=0)))
    first = loop.step()
    loop.check_invariants()

    assert first.prefill_tokens == 4 * 5


def test_the_longest_one_that_fits_is_taken() -> None:
    warm = WarmPrefixes(
        WarmPrefix(name, tokens, bytearray()) for name, tokens in (("a", (1, 2)), ("b", (1, 2, 3)), ("c", (9,)))
    )

    assert [
        prefix.name if (prefix := warm.match(prompt)) else None for prompt in ([1, 2, 3, 4], [1, 2, 3], [9, 9], [2])
    ] == [
        "b",
        "a",
        "c",
        None,
    ]


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=5), st.lists(st.integers(0, 2), max_size=9)
)
def test_a_match_is_the_longest_true_beginning(prefixes: list[list[int]], prompt: list[int]) -> None:
    found = WarmPrefixes(WarmPrefix("", tuple(tokens), bytearray()) for tokens in prefixes).match(prompt)
    fitting = [len(tokens) for tokens in prefixes if prompt[: len(tokens)] == tokens and len(tokens) < len(prompt)]

    assert (len(found.tokens) if found else 0) == max(fitting, default=0)


def test_they_survive_a_restart_in_files_that_only_the_owner_reads(tmp_path: Path) -> None:
    folder = tmp_path / "not yet there"
    model, _, _ = _warm(_load(str(folder)))
    assert model.computed > 0
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    again, warm, _ = _warm(_load(str(folder)))

    assert again.computed == 0
    assert len(warm) == 1
    loop = StepLoop(again, warm)
    assert _cached(_answer(loop, "r", list(f"<system>{SYSTEM}\n<user>hello".encode()))) == len(
        f"<system>{SYSTEM}\n<user>"
    )


def _of_other_cells(file: Path, load: LoadModel) -> None:
    """As `WarmFiles` would have written it elsewhere: whole, with a right digest."""
    other = WarmFiles(msgspec.structs.replace(load, kv_type="q8_0"), FakeModel(load).info)
    saved = WarmFiles(load, FakeModel(load).info).read("p0", list(f"<system>{SYSTEM}\n<user>".encode()))
    assert saved is not None
    other.write("p0", list(f"<system>{SYSTEM}\n<user>".encode()), saved)
    assert other.path("p0") == file


def _cut(file: Path, load: LoadModel) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def _changed(file: Path, load: LoadModel) -> None:
    data = bytearray(file.read_bytes())
    data[-10] ^= 1
    file.write_bytes(data)


def _emptied(file: Path, load: LoadModel) -> None:
    file.write_bytes(b"")


def _something_else(file: Path, load: LoadModel) -> None:
    file.write_bytes(b"GGUF" * 100)


def _writable_by_all(file: Path, load: LoadModel) -> None:
    file.write_bytes(file.read_bytes() + b" ")  # damaged as well, so that it is seen to be replaced
    file.chmod(0o666)


def _a_link(file: Path, load: LoadModel) -> None:
    file.rename(file.with_suffix(".elsewhere"))
    file.symlink_to(file.with_suffix(".elsewhere"))


def _of_another_make(file: Path, load: LoadModel) -> None:
    """A right digest over something else."""
    payload = (3).to_bytes(8, "little") + b"\xc1\xc1\xc1" + b"state"
    file.write_bytes(file.read_bytes()[: len(b"slotwise prefix 1\n")] + hashlib.sha256(payload).digest() + payload)


@pytest.mark.parametrize(
    "harm", [_cut, _changed, _emptied, _something_else, _of_other_cells, _writable_by_all, _a_link, _of_another_make]
)
def test_a_file_that_is_not_as_it_was_written_is_not_used_and_replaced(tmp_path: Path, harm: object) -> None:
    load = _load(str(tmp_path))
    _warm(load)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    assert callable(harm)
    harm(file, load)

    model, warm, _ = _warm(load)

    assert model.computed > 0
    assert len(warm) == 1
    assert file.read_bytes() == good
    assert stat.S_ISREG(file.lstat().st_mode)


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load = _load(str(tmp_path / "kept"))
    _warm(load)
    (tmp_path / "kept").chmod(0o777)

    model, warm, _ = _warm(load)

    assert model.computed > 0
    assert len(warm) == 1
    assert "nobody else may write it" in caplog.text


def test_what_a_writer_that_was_killed_left_is_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".writing-old", tmp_path / ".writing-new"
    old.write_text("")
    new.write_text("")
    os.utime(old, (1, 1))

    _warm(_load(str(tmp_path)))

    assert not old.exists()
    assert new.exists()


def test_a_context_that_does_not_take_a_saved_state_has_it_computed_again(tmp_path: Path) -> None:
    load = _load(str(tmp_path))
    _warm(load)

    class Refusing(CountingModel):
        refuse = True

        def restore(self, seq_id: int, state: bytearray) -> bool:
            refused, self.refuse = self.refuse, False
            return not refused and super().restore(seq_id, state)

    model = Refusing(load)
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    warm = warm_up_prefixes(model, preparer.prepare, load, lambda done: None)

    assert model.computed > 0
    assert len(warm) == 1


def test_progress_is_told_within_a_long_prefix() -> None:
    load = _load(systems=(SYSTEM, SYSTEM * 2))
    model = CountingModel(load)
    preparer = PromptPreparer(model.vocabulary, model.info.vocab_size)
    told: list[float] = []
    warm_up_prefixes(model, preparer.prepare, load, told.append)

    assert told == sorted(told)
    assert len(told) > 10
    assert 0 <= told[0] < told[-1] < 1


def test_a_template_that_writes_the_date_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    load = _load()
    model = CountingModel(load)
    template = f"{model.vocabulary.chat_template}{{# strftime_now #}}"
    model.vocabulary.chat_template = template
    warm_up_prefixes(model, PromptPreparer(model.vocabulary, 257).prepare, load, lambda done: None)

    assert "until midnight" in caplog.text


def test_a_prompt_that_was_changed_is_computed_anew(tmp_path: Path) -> None:
    _warm(_load(str(tmp_path)))

    model, _, _ = _warm(_load(str(tmp_path), systems=("You are somebody else now, and you say so at once.",)))

    assert model.computed > 0
    assert len(list(tmp_path.iterdir())) == 1


def test_one_that_does_not_fit_is_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    model, warm, _ = _warm(_load(systems=("too long " * 100, SYSTEM)))

    assert len(warm) == 1
    assert "p0" in caplog.text
    assert all(model.positions(row) == 0 for row in range(model.info.rows))


def test_a_folder_that_can_not_be_written_is_said_and_all_works(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")

    _, warm, _ = _warm(_load(str(blocked)))

    assert len(warm) == 1
    assert "can not be saved" in caplog.text
    assert os.listdir(tmp_path) == ["file"]


def test_where_there_is_no_room_the_prefix_is_computed() -> None:
    _, warm, _ = _warm(_load())
    prefix = list(f"<system>{SYSTEM}\n<user>".encode())

    class NoRoom(CountingModel):
        def restore(self, seq_id: int, state: bytearray) -> bool:
            self.remove(seq_id)
            return False

    model = NoRoom(_load())
    deltas = _answer(StepLoop(model, warm), "r", [*prefix, *b"hello"])

    assert deltas[-1].finish_reason is FinishReason.STOP
    assert _cached(deltas) == 0
    assert model.computed >= len(prefix) + len("hello")
