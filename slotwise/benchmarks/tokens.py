"""Counting tokens with a local model file, for servers that do not tell.

llama.cpp runs in a process of its own, as everywhere: a file may abort it.

    echo '["some text"]' | python -m slotwise.benchmarks.tokens M.gguf
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from slotwise.benchmarks.prompts import Ruler, seeded, text
from slotwise.request import ChatMessage, ChatPrompt, Prompt, TextPrompt
from slotwise.workers.prepare import PromptPreparer, PromptRefused

_FEW_WORDS, _MANY_WORDS = 10, 300
_TIMEOUT_S = 300.0


class CountError(Exception):
    """Raised when a file can not be used to count with; the message says why."""


def count(gguf: str, texts: Sequence[str], *, chat: bool = False) -> list[int]:
    """Tokens of each text; with `chat`, of a chat whose only message it is.

    Raises:
        CountError
    """
    command = [sys.executable, "-m", __name__, gguf, *(["--chat"] if chat else [])]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(texts), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CountError(f"{gguf} did not count the tokens within {_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise CountError(f"{gguf} can not be used to count tokens: {' '.join(last) or done.returncode}")
    return msgspec.json.decode(done.stdout, type=list[int])


def ruler_of(gguf: str) -> Ruler:
    """How the file's tokenizer and chat template count.

    Raises:
        CountError
    """
    texts = [text(seeded("ruler", words), words) for words in (_FEW_WORDS, _MANY_WORDS)]
    few, many = count(gguf, texts, chat=True)
    return Ruler.fit((_FEW_WORDS, few), (_MANY_WORDS, many))


def main(
    gguf: Annotated[str, typer.Argument(help="The model file.")],
    chat: Annotated[bool, typer.Option("--chat", help="With the template of a chat around each text.")] = False,
) -> None:
    """Read a JSON list of texts, print the list of their tokens."""
    from slotwise.workers.llama import LoadError, load_vocabulary

    try:
        vocabulary = load_vocabulary(gguf)
        preparer = PromptPreparer(vocabulary, vocabulary.size)
        texts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
        counts = [len(preparer.prepare(_prompt(one, chat))) if one else 0 for one in texts]
    except (LoadError, PromptRefused, msgspec.DecodeError) as error:
        typer.echo(str(error) or type(error).__name__, err=True)
        raise typer.Exit(1) from None
    sys.stdout.buffer.write(msgspec.json.encode(counts))


def _prompt(content: str, chat: bool) -> Prompt:
    return ChatPrompt((ChatMessage("user", content),)) if chat else TextPrompt(content)


if __name__ == "__main__":
    typer.run(main)
