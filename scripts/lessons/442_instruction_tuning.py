"""Lesson 4.4.2: instruction tuning, or how a model that continues text comes to answer

Ask a pretrained model a question, and it continues the text, perhaps with another question, even if it knows the
answer. Instruction tuning (supervised fine-tuning, SFT) trains it on a few conversations. The loop and the loss are
those of pretraining. What is new is in the data: a template and a mask. The model learns the format; knowledge comes
from pretraining. In this lesson both can be counted, because its world consists of forty invented countries.
Ouyang et al. 2022 (InstructGPT); Taori et al. 2023 (Alpaca); Zhou et al. 2023 (LIMA).
"""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.data.datasets import IGNORE, Example, ShuffledBatches, read_examples
from finetune.data.mask_view import mask_as_text
from finetune.data.tasks import made_up_word
from finetune.evaluation.answering import TEMPLATES, ask, shorten
from finetune.objectives.sft import collate, encode_examples, sft_loss
from gpt import Tokenizer
from gpt.console import printable
from gpt.files import write_text
from minigrad import no_grad, optim, use_kernels
from scripts.lessons.small_gpt import new_gpt, smooth, train, write
from scripts.pages.pictures import Lesson, bars

lesson = Lesson("442_instruction_tuning", __doc__)
rng = np.random.default_rng(0)

# %% A base model continues
# Pretrain a small GPT on facts about capitals, and on questions that nobody answers.
#
# Predict: the model knows a capital. What will it write after a question for it?
words = list(dict.fromkeys(made_up_word(rng, "train").capitalize() for _ in range(200)))[:80]
capitals = dict(zip(words[:40], words[40:]))  # invented, so the model can know them from this text only
countries = list(capitals)
taught, held_out, unknown = countries[:20], countries[20:34], countries[34:]  # capitals of the last six: in no text
QUESTION = "What is the capital of {0}? "
WORDINGS = ["The capital of {0} is {1}. ", "In {0} the capital is {1}. ", "Ask for the capital of {0}: it is {1}. "]


def sentence() -> str:
    """A fact in one of three wordings, or a question without an answer, as in a book of exercises."""
    if rng.random() < 0.2:
        return QUESTION.format(rng.choice(countries))
    country = str(rng.choice(taught + held_out))
    return str(rng.choice(WORDINGS)).format(country, capitals[country])


text = "".join(sentence() for _ in range(6000))
names = "".join(f" {word}" * 300 for word in words)  # so that each name becomes one token
tokenizer = Tokenizer.train([text + names], 512)
model = new_gpt(len(tokenizer))
with use_kernels("fast"):  # lesson 432 shows the steps
    losses = train(model, np.array(tokenizer.encode(text)), 1200)
print(f"pretrained on 6,000 sentences: loss {losses[0]:.2f} -> {np.mean(losses[-15:]):.2f}")


def knows(country: str) -> bool:
    """Whether the model completes a statement with the capital."""
    start = f"The capital of {country} is"
    return write(model, tokenizer, start, 1, temperature=0) == f"{start} {capitals[country]}"


known = np.mean([knows(country) for country in taught + held_out])
some = held_out[0]
print(f"statements such as 'The capital of {some} is': it completes {known:.0%} of those that it has read correctly")
print(f"a question, however: {write(model, tokenizer, QUESTION.format(some).strip(), 22)}")
assert known > 0.7 and not any(knows(country) for country in unknown)

# %% [markdown]
# Answer: another sentence of the kind that follows a question in its text, about some other country. It completes the
# statement correctly, so it has the knowledge; what it lacks is the form of an answer.

# %% The data: pairs of an instruction and a response, of many kinds
# The format of Alpaca's file: an instruction, an optional input that it is about, and the output to learn.
#
# * Alpaca (2023): 52,002 such examples, written by a larger model from 175 human ones, for under 500 dollars.
# * LIMA (2023): 1,000 examples, 750 from forums and 250 written by the authors. In their comparison, a model of 65
#   billion parameters tuned on these 1,000 was preferred to one tuned on Alpaca's 52,002.
KINDS = {
    "factual": ("What is the capital of France?", "", "The capital of France is Paris."),
    "creative": ("Write one line about the sea.", "", "The sea keeps every secret it is told."),
    "coding": ("Write a Python expression for the sum of a list x.", "", "sum(x)"),
    "summarization": ("Summarize the text.", "It rained all day, so the game was canceled.", "Rain canceled the game."),
}
fields = ("instruction", "input", "output")
path = lesson.out_dir / "instructions.jsonl"
write_text(path, "".join(json.dumps(dict(zip(fields, row))) + "\n" for row in KINDS.values()))
for kind, example in zip(KINDS, read_examples(path)):
    (asked, replied), (instruction, more, output) = example.messages, KINDS[kind]
    assert asked["content"].startswith(instruction) and asked["content"].endswith(more)
    assert replied == {"role": "assistant", "content": output}
    print(f"  {kind:13} {asked['content']!r} -> {replied['content']!r}")

# %% The template: ChatML
# Two new tokens say who speaks, and where a message ends. They mean nothing at first: each row is the mean of all
# others. If a user types the same characters, they are ordinary text, so a user cannot take the assistant's role.


def question(country: str) -> list[Message]:
    return [{"role": "user", "content": QUESTION.format(country).strip()}]


def answer(country: str) -> str:
    return f"It is {capitals[country]}."


examples = [Example([*question(c), {"role": "assistant", "content": answer(c)}]) for c in taught]
before = len(tokenizer)
added = add_chat_tokens(model, tokenizer)
template = ChatTemplate(tokenizer)
print(template.render(examples[0].messages))
assert added == 2 and template.end == before + 1 and tokenizer.encode("<|im_end|>", allowed_special=())[0] < before
print(f"two new tokens: {before} and {template.end}")

# %% The mask: learn the answers, not the questions
conversations, _ = encode_examples(examples, template, model.config.block_size)
inputs, targets = collate(conversations[:4])  # (B, T): a target is -100 where no loss is computed
print(mask_as_text(template, examples[0].messages, color=False))
learned = targets != IGNORE
print(f"in brackets: the tokens with a loss, {learned[0].sum()} of {len(conversations[0][0]) - 1} targets")
with no_grad():
    logits = model(inputs)  # (B, T, V)
    flat = F.cross_entropy(logits.reshape(-1, len(tokenizer)), targets.reshape(-1), ignore_index=IGNORE).item()
    total, count, _ = sft_loss(model, (inputs, targets))
    logprobs = F.log_softmax(logits, -1).data
by_hand = -np.mean([logprobs[b, t, targets[b, t]] for b, t in zip(*np.nonzero(learned))])
assert np.isclose(flat, by_hand, atol=1e-4) and np.isclose(total.item() / count, by_hand, atol=1e-4)
print(f"mean loss at {count} of {learned.size} positions: by hand {by_hand:.4f}, with -100 {flat:.4f}, "
      f"by sft_loss {total.item() / count:.4f}")  # fmt: skip

ids, marks = conversations[0]
with lesson.picture("mask", "The tokens with a loss (gray) in one conversation", size=(11, 2.2)) as axes:
    pieces = [printable(tokenizer.decode([i])).replace("\n", "\\n").strip() for i in ids]
    axes.bar(range(len(ids)), 1, width=0.96, color=["0.75" if mark else "white" for mark in marks], edgecolor="black")
    for place, piece in enumerate(pieces):
        axes.text(place, 0.5, piece, rotation=90, ha="center", va="center", fontsize=9)
    axes.set(xlabel="position (tokens)", yticks=[], xlim=(-0.6, len(ids) - 0.4))

# %% The same heartbeat: five steps, four of them as in pretraining
groups = [(taught, "taught in SFT"), (held_out, "only in the text"), (unknown, "in no text")]


def measure(model: Any, how: str) -> dict[str, tuple[float, float]]:
    """For each group of countries: the share of right answers, and of answers that have the right form and end."""
    found = {}
    for group, name in groups:
        replies = ask(model, tokenizer, [question(c) for c in group], TEMPLATES[how](tokenizer), max_new_tokens=8)
        right = np.mean([r.ended and r.text == answer(c) for r, c in zip(replies, group)])
        formed = np.mean([r.ended and r.text.startswith("It is ") and r.text.endswith(".") for r in replies])
        found[name] = (float(right), float(formed))
    return found


in_chat, *others = TEMPLATES
untuned = measure(model, in_chat)


def instruct(base: Any, examples: list, seed: int, rate: float = 5e-4, steps: int = 160) -> tuple[Any, list[float]]:
    """A copy of the base model after SFT, and the losses."""
    model = copy.deepcopy(base)
    optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=rate, betas=(0.9, 0.99))
    schedule = optim.WarmupCosine(optimizer, 4, steps)
    batches = ShuffledBatches(examples, 16, collate, seed)
    losses = []
    model.train()
    for _ in range(steps):
        inputs, targets = next(batches)  # 1. a batch: the only step that differs from pretraining
        total, count, _ = sft_loss(model, (inputs, targets))  # 2. forward: the same cross-entropy
        loss = total / count
        model.zero_grad()
        loss.backward()  # 3. backward
        optim.clip_grad_norm_(model.parameters(), 1.0)  # 4. clip
        optimizer.step()  # 5. step
        schedule.step()
        losses.append(loss.item())
    return model.eval(), losses


base = model
model, losses = instruct(base, conversations, seed=0)
print(f"{len(losses)} steps: loss {losses[0]:.2f} -> {losses[-1]:.2f} (uniform: {math.log(len(tokenizer)):.2f})")
assert losses[-1] < 0.2 * losses[0]

# %% What was learned: the format
tuned = measure(model, in_chat)
print(f"{'answers about countries':26}{'right: before':>14}{'after':>7}{'in form: before':>17}{'after':>7}")
for group, name in groups:
    (right, formed), (right_now, formed_now) = untuned[name], tuned[name]
    print(f"{name:18} ({len(group):2})    {right:14.0%}{right_now:7.0%}{formed:17.0%}{formed_now:7.0%}")
for group, name in groups:
    (reply,) = ask(model, tokenizer, [question(group[0])], TEMPLATES[in_chat](tokenizer))
    verdict = "right" if reply.text == answer(group[0]) else f"wrong: it is {capitals[group[0]]}"
    print(f"  {name:17} {question(group[0])[0]['content']}  {reply.text}  ({verdict})")
# No conversation mentioned the second group, so right answers come from pretraining. No text mentioned the third group.
assert tuned["only in the text"][0] > 0.3 and tuned["in no text"][0] == 0 and tuned["in no text"][1] > 0.5

# %% [markdown]
# Some answers about countries that no conversation mentioned are right: their capitals come from pretraining. Where the
# capital is in no text, most answers have the same form, and none is right. The same with other orders of the
# conversations and another learning rate (with too small a rate or too few steps, no answer has the form yet):

# %%
print("right answers, taught and only in the text:")
with use_kernels("fast"):
    for seed, rate in ((1, 5e-4), (2, 5e-4), (1, 1e-3)):
        result = measure(instruct(base, conversations, seed, rate)[0], in_chat)
        print(f"  seed {seed}, rate {rate:g}: " + ", ".join(f"{result[name][0]:.0%}" for _, name in groups[:2]))
        assert result["only in the text"][0] > 0.3 and result["in no text"][0] == 0
    few, _ = instruct(base, conversations[:4], seed=0)
    formed = measure(few, in_chat)["only in the text"][1]
print(f"with 4 conversations instead of {len(conversations)}, {formed:.0%} of the answers to new questions are in form")

# %% The same questions in another template
# The template is not decoration: it is part of what was learned.
shares = {in_chat: tuned["taught in SFT"][0]}
for how in others:
    shares[how] = measure(model, how)["taught in SFT"][0]
    reply = ask(model, tokenizer, [question(taught[0])], TEMPLATES[how](tokenizer), max_new_tokens=8)[0]
    print(f"{how}: {shorten(reply.text) or '(nothing)'}")
assert all(shares[how] < 0.5 * shares[in_chat] for how in others)
print("right answers to the questions that it was taught:", {how: f"{share:.0%}" for how, share in shares.items()})
with lesson.picture("format", "SFT teaches format, not knowledge", columns=3, size=(13, 3.8)) as (one, two, three):
    one.plot(losses, color="0.75", label="loss of a batch")
    one.plot(smooth(losses, 8), color="black", label="mean of 8")
    one.set(xlabel="step", ylabel="loss (nats per learned token)", title="instruction tuning")
    pairs = {f"{name.replace(' ', chr(10), 1)}\n{kind}": tuned[name][i] for _, name in groups
             for i, kind in enumerate(("right", "in form"))}  # fmt: skip
    bars(two, pairs, "share of answers", ".0%", ("", "///"))
    two.tick_params(axis="x", labelsize=7)
    two.set(title="by where the country occurred")
    bars(three, {how.replace(" ", "\n", 1): share for how, share in shares.items()}, "share of right answers", ".0%")
    three.tick_params(axis="x", labelsize=8)
    three.set(title="taught questions, three templates")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start loss_masking`
# - read: finetune/data/chat_template.py and finetune/objectives/sft.py; then scripts/sft.py --help
# - break: `python scripts/break.py wrong_template`: taught in ChatML, asked in another template. Expect: six right
#   answers in ChatML, and none in the other one. The weights are the same.
# - lesson: `python scripts/lesson.py 443`
