"""scripts/chat.py as its users meet it."""

import io
import os
import select
import signal
import subprocess
import sys

import pytest

from finetune.data.chat_template import IM_END, IM_START
from gpt import Llama, LlamaConfig
from minigrad import manual_seed
from scripts import chat
from tests.gpt.smollm import smollm_tokenizer
from tests.scripts.running import ROOT, command, environment, output_of, run_process, write_model

GREEDY = ["--temperature", 0, "--max-new-tokens", 9]


def chat_model(folder, special_tokens=(), block_size=128):
    """What it writes depends on what it reads."""
    special_tokens = ["<|endoftext|>", *special_tokens]
    return write_model(folder, special_tokens=special_tokens, scale=10, block_size=block_size)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return chat_model(tmp_path_factory.mktemp("tuned"), [IM_START, IM_END])


@pytest.fixture
def said(monkeypatch):
    """What a chat prints when these lines are typed."""

    def chatted(model, lines, *arguments):
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        return output_of(chat.main, "--model", model, "--seed", 1, *arguments)

    return chatted


def llama_folder(folder, block_size=256):
    """A small Llama with SmolLM2's kind of tokenizer and chat template, as a folder of Hugging Face."""
    tokenizer = smollm_tokenizer()
    manual_seed(0)
    model = Llama(LlamaConfig(len(tokenizer), block_size, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_inner=32))
    for parameter in model.parameters():
        parameter.data *= 6
    model.save_pretrained(folder, tokenizer)
    return folder


def test_a_llama_with_its_own_chat_template(said, tmp_path):
    asked = llama_folder(tmp_path), "What is 12 + 30?\nand then?\n", "--max-new-tokens", 9
    out = said(*asked)
    assert "was tuned on conversations with its own chat template" in out
    assert 'Its system message is "You are a helpful AI assistant" (--system replaces it).' in out
    assert said(*asked, "--temperature", 0) == said(*asked, "--temperature", 0, "--seed", 2)
    same, other = (said(*asked, "--system", system) for system in ("You are a helpful AI assistant", "5"))
    assert out.split("model> ")[1:] == same.split("model> ")[1:] and "Its system message" not in same
    assert out.split("model> ")[1:] != other.split("model> ")[1:]
    warm = said(*asked, "--temperature", 1)
    assert out != warm != said(*asked, "--temperature", 1, "--seed", 2)


def test_it_says_once_that_it_forgets(said, tmp_path):
    out = said(llama_folder(tmp_path, block_size=128), "the quick brown fox\n" * 8, "--max-new-tokens", 12)
    assert out.count("model> ") == 8 and "too long" not in out
    assert out.count("(the conversation is now longer than the model's context of 128 tokens: from here on") == 1


@pytest.mark.parametrize("word", ["exit", "/quit", "Exit"])
def test_a_word_leaves_and_help_names_it(said, base, word):
    out = said(base, f"/help\n{word}\nthe cat\n")
    assert out.count("model> ") == 0 and out.count("exit (or /quit) leaves") == 2


TEXTS = ["one two three four five six", "a" * 30 + " b", "x = 1\n    y = 2\n", "猫が好き です " * 4]


@pytest.mark.parametrize("text", TEXTS)
def test_lines_break_between_words_at_the_terminals_edge(text, monkeypatch, capsys):
    monkeypatch.setattr("shutil.get_terminal_size", lambda *fallback, **named: os.terminal_size((16, 24)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    wrapped = chat.WrappedText(len("model> "))
    for character in text:
        wrapped.write(character)
    wrapped.end()
    rows = [""]
    column = 0
    for character in "model> " + capsys.readouterr().out:
        width = 2 if ord(character) > 0x2E80 else 1
        if character == "\n" or column + width > 16:
            rows = [*rows, ""]
            column = 0
        rows[-1] += character.strip("\n")
        column += 0 if character == "\n" else width
    words = [word for row in rows for word in row.split()]
    assert "".join(words) == "model>" + "".join(text.split())
    if text.isascii() and "a" * 30 not in text:
        assert words == ["model>", *text.split()]  # none was cut


NOT_TUNED = "was not tuned on conversations (it has no chat template)"


@pytest.mark.parametrize(
    "kind, words", [("base", NOT_TUNED), ("tuned", "was tuned on conversations with the template ChatML")]
)
def test_it_says_what_it_is_and_answers_until_the_input_ends(said, kind, words, request):
    model = request.getfixturevalue(kind)
    out = said(model, "the cat\n\n  \nand the dog\n", "--max-new-tokens", 9)
    assert words in out
    assert out.count("model> ") == 2 and out.count("you> ") == 5  # empty lines are asked again
    assert out == said(model, "the cat\n\n  \nand the dog", "--max-new-tokens", 9)


def test_commands(said, base):
    out = said(base, "the cat\n/reset\nthe cat\n/what now\n/quit\nthe dog\n", *GREEDY)
    first, second = (part.splitlines()[0] for part in out.split("model> ")[1:])
    assert first == second and "(forgotten)" in out and "(there is no command /what: /help, /reset, /quit)" in out
    assert out.count("model> ") == 2


def test_it_remembers_what_was_said_and_the_system_message(said, base):
    first, system = ["a\na\n", *GREEDY], ["--system", "red barn"]
    answers = [said(base, *talk).split("model> ")[2] for talk in (first, ["b\na\n", *GREEDY], [*first, *system])]
    assert answers[1] != answers[0] != answers[2]


def test_a_question_that_is_too_long_ends_no_conversation(said, base):
    out = said(base, f"{'word ' * 80}\nthe cat\n", "--max-new-tokens", 5)
    assert "model> (that is too long: " in out and out.count("model> ") == 2


def test_as_a_process_with_bytes_that_are_no_text(base):
    given = {"encoding": None, "input": b"caf\xff \x81\n", "PYTHONIOENCODING": "cp1252"}
    done = run_process("chat", "--model", base, "--max-new-tokens", 5, **given)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.count(b"model> ") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_ctrl_c_stops_the_answer_and_a_typed_question_waits(tmp_path):
    model = chat_model(tmp_path, block_size=100_000)
    ours, theirs = os.openpty()
    running = subprocess.Popen(
        command("chat", "--model", model, "--max-new-tokens", 10**6, "--seed", 1),
        cwd=ROOT, env=environment(TERM="dumb"), stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    seen = b""

    def read_until(text, times):
        nonlocal seen
        while seen.count(text) < times:
            assert select.select([ours], [], [], 120)[0], seen
            seen += os.read(ours, 1000)

    read_until(b"you> ", 1)
    os.write(ours, b"the cat\n")
    read_until(b"model> ", 1)
    length = len(seen) + 200
    while len(seen) < length:
        seen += os.read(ours, 1000)
    os.write(ours, b"typed ahead\n")
    running.send_signal(signal.SIGINT)
    read_until(b"model> ", 2)
    assert b"(stopped)" in seen.partition(b"model> ")[2].partition(b"you> ")[0]
    os.write(ours, b"exit\n")
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=120) == 0
    os.close(ours), os.close(theirs)
