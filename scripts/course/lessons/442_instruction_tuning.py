"""Lesson 4.4.2: instruction tuning, or how a model that continues text comes to answer

A pretrained model has read many facts. Does it answer when it is asked for one? Instruction tuning (supervised
fine-tuning, SFT) trains it on a few conversations. The loop and the loss are those of pretraining; what is new is in
the data: a template and a mask. What does the model learn from them, and what did it know before? In this lesson both
can be counted, because its world consists of forty invented countries.
Ouyang et al. 2022 (InstructGPT); Taori et al. 2023 (Alpaca); Zhou et al. 2023 (LIMA).
"""

import copy
import json
import math
from typing import Any

import numpy as np

import minigrad.functional as F
from finetune.built_in.tasks import made_up_word
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.data.datasets import IGNORE, Example, ShuffledBatches, read_examples
from finetune.evaluation.answering import TEMPLATES, ask, shorten
from finetune.objectives.sft import collate, encode_examples, sft_loss
from gpt import GPT, Tokenizer
from gpt.files import write_text
from minigrad import no_grad, optim, use_kernels
from scripts.course.lessons.small_gpt import new_gpt, train, write
from scripts.course.pictures import Lesson

lesson = Lesson("442_instruction_tuning", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% A model that has read, and is asked
# Its text: facts about capitals, and questions that nobody answers, as in a book of exercises.
words = list(dict.fromkeys(made_up_word(rng, "train").capitalize() for _ in range(200)))[:80]
capitals = dict(zip(words[:40], words[40:]))  # invented, so the model can know them from this text only
countries = list(capitals)
taught, held_out, unknown = countries[:20], countries[20:34], countries[34:]  # capitals of the last six: in no text
QUESTION = "What is the capital of {0}? "
WORDINGS = ["The capital of {0} is {1}. ", "In {0} the capital is {1}. ", "Ask for the capital of {0}: it is {1}. "]


def sentence() -> str:
    """A fact in one of three wordings, or a question without an answer."""
    if rng.random() < 0.2:
        return QUESTION.format(rng.choice(countries))
    country = str(rng.choice(taught + held_out))
    return str(rng.choice(WORDINGS)).format(country, capitals[country])


text = "".join(sentence() for _ in range(6000))
names = "".join(f" {word}" * 300 for word in words)  # so that each name becomes one token
tokenizer = Tokenizer.train([text + names], 512)
print(text[:200])

# %% [markdown]
# Predict: the model will complete "The capital of X is" correctly. What will it write after the question "What is the
# capital of X?"


# %%
def pretrained(seed: int) -> tuple[GPT, list[float]]:
    """A small GPT that has read the text, and its losses; lesson 432 shows the steps."""
    model = new_gpt(len(tokenizer), seed, n_layer=1, block_size=40)
    with use_kernels("fast"):
        return model, train(model, np.array(tokenizer.encode(text)), 2000, seed=seed)


model, losses = pretrained(lesson.seed)
print(f"pretrained on 6,000 sentences: loss {losses[0]:.2f} -> {np.mean(losses[-15:]):.2f}")


def knows(country: str) -> bool:
    """Whether the model completes a statement with the capital."""
    start = f"The capital of {country} is"
    # Behind a space, as in its text: at the very beginning, "The" is another token, which it has hardly read.
    return write(model, tokenizer, f" {start}", 1, temperature=0) == f"{start} {capitals[country]}"


known = np.mean([knows(country) for country in taught + held_out])
some = held_out[0]
print(f"statements such as 'The capital of {some} is': it completes {known:.0%} of those that it has read correctly")
print(f"a question, however: {write(model, tokenizer, QUESTION.format(some).strip(), 22)}")
assert known > 0.9 and not any(knows(country) for country in unknown)

# %% [markdown]
# Answer: another sentence of the kind that follows a question in its text, mostly about some other country. It
# completes the statement correctly, so it has the knowledge; what it lacks is the form of an answer. It is like an
# expert in monologue, who knows the subject and does not notice that somebody has asked.

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
    asked, replied = (message["content"] for message in example.messages)
    print(f"  {kind:13} {asked!r} -> {replied!r}")
    assert replied == KINDS[kind][2]

# %% The template: ChatML
# Two new tokens say who speaks, and where a message ends. They mean nothing at first: each of their rows in the
# embedding is the mean of all others. The output layer is the same matrix, so the model finds a new token as likely as
# an average one, and its other predictions hardly change. If a user types the same characters, they are ordinary text,
# so a user cannot take the assistant's role.


def question(country: str) -> list[Message]:
    return [{"role": "user", "content": QUESTION.format(country).strip()}]


def answer(country: str) -> str:
    return f"It is {capitals[country]}."


examples = [Example([*question(c), {"role": "assistant", "content": answer(c)}]) for c in taught]
before = len(tokenizer)
added = add_chat_tokens(model, tokenizer)
rows = model.embedding.weight.data
assert np.allclose(rows[before:], rows[:before].mean(axis=0), atol=1e-6), "a new token's row is not the mean of the old"
with no_grad():
    logits = model([tokenizer.encode(f" The capital of {some} is")]).data[0, -1]
assert np.allclose(logits[before:], logits[:before].mean(), atol=1e-4), "a new token does not get an average logit"
base = model
template = ChatTemplate(tokenizer)
print(template.render(examples[0].messages))
assert added == 2 and template.end == before + 1 and tokenizer.encode("<|im_end|>", allowed_special=())[0] < before
print(f"two new tokens: {before} and {template.end}")

# %% The mask: learn the answers, not the questions
short = Example([{"role": "user", "content": "?"}, {"role": "assistant", "content": "It is."}])  # its row is padded
(*conversations, shortest), _ = encode_examples([*examples, short], template, model.config.block_size)
inputs, targets = collate([*conversations[:3], shortest])  # (B, T): a target is -100 where no loss is computed
print(template.marked(examples[0].messages))
learned = targets != IGNORE
said = [tokenizer.decode(row[where].tolist()) for row, where in zip(targets, learned)]
assert said == [f"{text}<|im_end|>" for text in (*map(answer, taught[:3]), "It is.")]  # the answer, its end, no more
assert (inputs[:, 1:] == targets[:, :-1])[learned[:, :-1]].all()  # and each is the next input
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

# %% [markdown]
# ## Another loss?
#
# Predict: if every token were marked as one to learn, what would remain of the difference between this loss and the
# loss of pretraining?

# %%
ids = conversations[0][0]
everywhere = (np.array([ids[:-1]]), np.array([ids[1:]]))  # the mask lets everything through
total, count, _ = sft_loss(model, everywhere)
print(f"sft_loss {total.item() / count:.4f}, loss of pretraining {model.loss(*everywhere).item():.4f}")
assert np.isclose(total.item() / count, model.loss(*everywhere).item(), atol=1e-5)
assert not np.isclose(total.item() / count, by_hand, atol=1e-2)  # the mask does make a difference

# %% [markdown]
# Answer: nothing. Pretraining, classification and now SFT: **the same heartbeat, the third time**. A batch, forward,
# backward, clip, step; only the batch is another one.

# %%
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


# %% Five steps, four of them as in pretraining
def instruct(base: Any, examples: list, seed: int, rate: float = 3e-4, steps: int = 800) -> tuple[Any, list[float]]:
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


model, losses = instruct(base, conversations, lesson.seed)
print(f"{len(losses)} steps: loss {losses[0]:.2f} -> {losses[-1]:.2f} (uniform: {math.log(len(tokenizer)):.2f})")
assert losses[-1] < 0.5 * losses[0]

# %% What has it learned from twenty conversations?
# Twenty countries were in the conversations. Fourteen were only in the text of pretraining, and six in no text. The
# control is a model with random weights and the same conversations: what it can do does not come from pretraining.
#
# Predict: for each of the three groups, how many answers have the form "It is X.", and how many are right?
blank = new_gpt(base.config.vocab_size, lesson.seed, n_layer=1, block_size=40)
control = measure(instruct(blank, conversations, lesson.seed)[0], in_chat)
tuned = measure(model, in_chat)
print(f"{'':25}{'right: base':>12}{'SFT':>6}{'control':>9}{'in form: base':>16}{'SFT':>6}{'control':>9}")
for group, name in groups:
    shares = [[found[name][i] for found in (untuned, tuned, control)] for i in (0, 1)]
    cells = [f"{share:{width}.0%}" for share, width in zip(sum(shares, []), (12, 6, 9, 16, 6, 9))]
    print(f"{name:18} ({len(group):2})   {''.join(cells)}")
for group, name in groups:
    (reply,) = ask(model, tokenizer, [question(group[0])], TEMPLATES[in_chat](tokenizer))
    verdict = "right" if reply.text == answer(group[0]) else f"wrong: it is {capitals[group[0]]}"
    print(f"  {name:17} {question(group[0])[0]['content']}  {reply.text}  ({verdict})")
assert tuned["only in the text"][0] > control["only in the text"][0] + 0.1 and tuned["in no text"][0] < 0.2
assert max(untuned[name][1] for _, name in groups) < 0.1
assert min(tuned["only in the text"][1], control["only in the text"][1]) > 0.5

# %% [markdown]
# Answer: **SFT teaches format, not knowledge.** The form is there, also for countries that no conversation mentioned,
# and the base model never had it. Even the control, which has read nothing else, learns it. Right answers about the
# fourteen countries come from pretraining, because nothing in the conversations tells their capitals: the control has
# none. Where a capital is in no text, at most one of the six answers is right, by luck.

# %% SFT can bury knowledge
# The same conversations and the same number of steps, at thirty times the learning rate.
#
# Predict: which of the three groups suffers?
buried = measure(instruct(base, conversations, lesson.seed, 1e-2)[0], in_chat)
for _, name in groups:
    print(f"{name:18} right: rate 0.0003 {tuned[name][0]:4.0%}, rate 0.01 {buried[name][0]:4.0%}")
assert buried["only in the text"][0] < tuned["only in the text"][0] - 0.1

# %% [markdown]
# Answer: what was only read is lost. In most worlds the twenty answers that the loss asks for are right: the model
# learns them by heart instead of finding the capital where pretraining has put it. (In some, even these are not.) So
# large models are tuned at low rates and for few epochs, often with some plain text among the examples. How much is
# found, even at the low rate, depends on the world: with `--seed 12`, a fifth.

# %% The same questions in another template
# The questions that it was taught, in the template of the conversations, without one, and in another model's.
#
# Predict: does the template matter?
shares = {in_chat: tuned["taught in SFT"][0]}
for how in others:
    shares[how] = measure(model, how)["taught in SFT"][0]
    reply = ask(model, tokenizer, [question(taught[0])], TEMPLATES[how](tokenizer), max_new_tokens=8)[0]
    print(f"{how}: {shorten(reply.text) or '(nothing)'}")
print("right answers to the questions that it was taught:", {how: f"{share:.0%}" for how, share in shares.items()})
assert shares["without a template"] < 0.2 < 0.8 < shares[in_chat] == max(shares.values())

# %% [markdown]
# Answer: yes, it is part of what was learned. Without it no answer is left. In Alpaca's template it depends on the
# world, from none (`--seed 21`) to all: no example says what to do there. So ask a model in its own template.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start loss_masking`
# - read: finetune/data/chat_template.py and finetune/objectives/sft.py; then scripts/sft.py --help
# - break: `python scripts/break.py wrong_template`: taught in ChatML, asked in another template. Expect: six right
#   answers in ChatML, and none in the other one. The weights are the same.
# - lesson: `python scripts/lesson.py 443`
