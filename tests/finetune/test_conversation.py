"""Conversations: what the model is given to read, what is forgotten, and where an answer ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data import conversation as conversation_module
from finetune.data.chat_template import IM_END, IM_START, ChatTemplate
from finetune.data.conversation import Conversation, Transcript, until
from gpt import Tokenizer
from gpt.model.batch_generation import stream
from gpt.model.generation import Sampling
from tests.gpt.small import shapes_read, small_gpt, small_llama

GREEDY = Sampling(temperature=0)
STOP = Transcript.stop_text


@pytest.fixture
def tokenizer():
    return Tokenizer.train("User: Assistant: a conversation of bytes", vocab_size=257)


def talk(tokenizer, block_size=200, **options):
    return Conversation(small_gpt(vocab_size=len(tokenizer), block_size=block_size), tokenizer, **options)


@pytest.fixture
def says(monkeypatch):
    """Let the model say what a test wants, byte by byte, and note what it was given to read."""

    def set_up(tokenizer, *answers):
        prompts = []
        left = list(answers)

        def scripted(model, prompts_, max_new_tokens, sampling, stop_tokens=(), memory=None):
            prompts.append(tokenizer.decode(prompts_[0]))
            assert len(prompts_[0]) + max_new_tokens <= model.config.block_size
            for token in itertools.islice(tokenizer.encode(left.pop(0)), max_new_tokens):
                yield [token]
                if token in stop_tokens:
                    return

        monkeypatch.setattr(conversation_module, "stream", scripted)
        return prompts

    return set_up


def ask(conversation, question, max_new_tokens=40):
    return "".join(conversation.answer(question, max_new_tokens, GREEDY))


def test_a_transcript_is_written_and_ends_at_the_users_next_line(says, tokenizer):
    prompts = says(tokenizer, " Hi, you.\nUser: and I", " Fine\nUsually.")
    conversation = talk(tokenizer, system="Two people talk.")
    assert not conversation.knows_chat
    assert ask(conversation, "Hello!") == "Hi, you."
    assert ask(conversation, "How are you?") == "Fine\nUsually."
    assert prompts[0] == "Two people talk.\nUser: Hello!\nAssistant:"
    assert prompts[1] == prompts[0] + " Hi, you.\nUser: How are you?\nAssistant:"


def test_chatml_is_taken_where_the_tokenizer_has_it(says, tokenizer):
    tokenizer.add_special_tokens([IM_START, IM_END])
    prompts = says(tokenizer, f"Hi.{IM_END}\n{IM_START}user", f"Fine.\nUser: x{IM_END}")
    conversation = talk(tokenizer)
    assert conversation.knows_chat
    assert ask(conversation, "Hello!") == "Hi."
    assert ask(conversation, "And you?") == "Fine.\nUser: x"  # what ends a transcript is ordinary text here
    assert prompts[1] == ChatTemplate(tokenizer).render(conversation.messages[:3], add_generation_prompt=True)


def test_the_oldest_turns_are_forgotten_several_at_once(says, tokenizer):
    prompts = says(tokenizer, *[f" answer {i}\nUser:" for i in range(18)])
    conversation = talk(tokenizer, block_size=320, system="S.")
    for i in range(18):
        assert ask(conversation, f"question {i}", max_new_tokens=20) == f"answer {i}"
    lengths, oldest = [], []
    for i, prompt in enumerate(prompts):
        assert prompt.startswith("S.\nUser: question ") and prompt.endswith(f"User: question {i}\nAssistant:")
        lengths.append(len(tokenizer.encode(prompt)))
        oldest.append(int(prompt.split("question ")[1].split("\n")[0]))
    assert max(lengths) <= 300 and oldest[0] == 0 and oldest[-1] > 8
    changes = [i for i in range(1, 18) if oldest[i] != oldest[i - 1]]
    assert all(180 < lengths[i] <= 225 for i in changes)  # three quarters of 300, to a turn
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(changes))
    assert conversation.forgotten == 2 * oldest[-1]
    conversation.reset()
    assert conversation.forgotten == 0 and conversation.messages == [{"role": "system", "content": "S."}]


def test_the_last_question_is_never_forgotten(says, tokenizer):
    prompts = says(tokenizer, " fine\nUser:", " fine\nUser:")
    conversation = talk(tokenizer, block_size=150)
    ask(conversation, "short", 20)
    ask(conversation, "x" * 100, 20)  # more than three quarters of the room alone, but it fits
    assert prompts[1] == f"User: {'x' * 100}\nAssistant:"


def test_an_answer_has_half_of_the_context_at_most(says, tokenizer):
    says(tokenizer, "x" * 1000)
    answer = ask(talk(tokenizer, block_size=60), "0123456789", max_new_tokens=1000)
    prompt = "User: 0123456789\nAssistant:"
    assert answer == "x" * (60 - len(prompt))  # and what the question leaves over


def test_a_question_that_is_too_long_is_refused(says, tokenizer):
    says(tokenizer, " fine\nUser:")
    conversation = talk(tokenizer, block_size=80)
    ask(conversation, "short", 20)
    before = list(conversation.messages)
    with pytest.raises(ValueError, match="too long: 117 tokens with the template. The model reads 80"):
        ask(conversation, "x" * 100, 20)
    assert conversation.messages == before


def test_an_answer_that_is_stopped_belongs_to_the_conversation(says, tokenizer):
    says(tokenizer, " one two three")
    conversation = talk(tokenizer)
    answer = conversation.answer("Count.", 40, GREEDY)
    said = "".join(itertools.islice(answer, 8))
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": said.strip()} and "one" in said


@pytest.mark.parametrize("small", [small_gpt, small_llama])
def test_what_was_read_is_not_read_again(small, tokenizer, monkeypatch):
    model = small(vocab_size=len(tokenizer), block_size=300)
    for parameter in model.parameters():
        parameter.data *= 5  # so that what it writes depends on what it reads
    read = shapes_read(model, monkeypatch)
    questions = ["Hello", "And you?", "Well", "Now something longer, " * 10 + "to forget the first ones"]

    def answers():
        """The answers, how much was read at once for each, and how many messages were forgotten."""
        conversation = Conversation(model, tokenizer)
        texts = []
        sizes = []
        for question in questions:
            read.clear()
            texts.append(ask(conversation, question, 12))
            sizes.append(read[0][1])
        return texts, sizes, conversation.forgotten

    texts, sizes, forgotten = answers()
    monkeypatch.setattr(conversation_module, "stream", lambda *a, memory=None, **options: stream(*a, **options))
    expected, whole, _ = answers()
    assert texts == expected and forgotten > 0
    assert 200 < sizes[3] <= whole[3]  # what stands elsewhere now is read anew
    assert all(0 < sizes[i] <= whole[i] - whole[i - 1] for i in (1, 2))


@given(st.text("\nUser: x", max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_until_gives_the_text_before_the_stop_however_it_is_cut(text, cuts):
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert "".join(until(pieces, STOP)) == text.split(STOP)[0]
    assert "".join(until(pieces, None)) == text
