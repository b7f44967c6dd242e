"""Lesson 4.4.2: instruction tuning, or how a model that continues text comes to answer

A pretrained model that is asked a question goes on as a text would, perhaps with another question. It may know the
answer all the same. Instruction tuning (SFT) shows it a few conversations, with the loop and the loss of pretraining;
what is new is in the data: a template, and a mask. What the model learns is the format. The knowledge was there, or is
not. Here both can be counted, as the world of this lesson is forty invented countries.
Ouyang et al. 2022 (InstructGPT); Zhou et al. 2023 (LIMA): a thousand conversations are enough.
"""

from __future__ import annotations

import math

import numpy as np

import minigrad.functional as F
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.data.datasets import IGNORE, Example, ShuffledBatches
from finetune.data.mask_view import mask_as_text
from finetune.data.tasks import made_up_word
from finetune.evaluation.answering import TEMPLATES, ask, shorten
from finetune.objectives.sft import collate, encode_examples, sft_loss
from gpt import Tokenizer
from gpt.console import printable
from minigrad import no_grad, optim, use_kernels
from scripts.lessons.pictures import Lesson, bars
from scripts.lessons.small_gpt import new_gpt, smooth, train, write

lesson = Lesson("442_instruction_tuning", __doc__)
rng = np.random.default_rng(0)

# %% What pretraining knows
words = list(dict.fromkeys(made_up_word(rng, "train").capitalize() for _ in range(200)))[:80]
capitals = dict(zip(words[:40], words[40:]))  # of invented countries: nobody knows them from elsewhere
countries = list(capitals)
taught, held_out, unknown = countries[:20], countries[20:34], countries[34:]  # the last six are in no text
QUESTION = "What is the capital of {0}? "
WORDINGS = ["The capital of {0} is {1}. ", "In {0} the capital is {1}. ", "Ask for the capital of {0}: it is {1}. "]


def sentence() -> str:
    """A fact in one of three wordings, or, as in a book of exercises, a question that nobody answers."""
    country = str(rng.choice(taught + held_out))
    wording = QUESTION if rng.random() < 0.2 else str(rng.choice(WORDINGS))
    return wording.format(country, capitals[country])


text = "".join(sentence() for _ in range(6000))
names = "".join(f" {word}" * 300 for word in words)  # each becomes one token, as frequent names do
tokenizer = Tokenizer.train([text + names], 512)
model = new_gpt(len(tokenizer))
with use_kernels("fast"):  # lesson 432 has shown the steps
    losses = train(model, np.array(tokenizer.encode(text)), 1500)
print(f"pretrained on 6,000 sentences: loss {losses[0]:.2f} -> {np.mean(losses[-15:]):.2f}")


def knows(country: str) -> bool:
    """Whether the model continues a statement with the capital."""
    start = f"The capital of {country} is"
    return write(model, tokenizer, start, 1, temperature=0) == f"{start} {capitals[country]}"


known = np.mean([knows(country) for country in taught + held_out])
some = held_out[0]
print(f"it continues 'The capital of {some} is' rightly, as {known:.0%} of those it has read of: it knows")
print(f"but asked: {write(model, tokenizer, QUESTION.format(some).strip(), 22)}")
assert known > 0.7 and not any(knows(country) for country in unknown)

# %% Conversations

def question(country: str) -> list[Message]:
    return [{"role": "user", "content": QUESTION.format(country).strip()}]


def answer(country: str) -> str:
    return f"It is {capitals[country]}."


examples = [Example([*question(c), {"role": "assistant", "content": answer(c)}]) for c in taught]
before = len(tokenizer)
added = add_chat_tokens(model, tokenizer)
template = ChatTemplate(tokenizer)
print(template.render(examples[0].messages))
assert added == 2 and template.start == before and tokenizer.encode("<|im_end|>", allowed_special=())[0] < before
print(f"two new tokens, {template.start} and {template.end}. They mean nothing yet: a row is the mean of the others.")
print("Typed by a user, the same characters are ordinary text, so that nobody can speak in another's role.")

# %% The mask
conversations, _ = encode_examples(examples, template, model.config.block_size)
inputs, targets = collate(conversations[:4])  # (B, T): targets are -100 wherever nothing is learned
print(mask_as_text(template, examples[0].messages, colour=False))
learned = targets != IGNORE
print(f"in brackets what is learned: {learned[0].sum()} of {len(conversations[0][0]) - 1} targets")
with no_grad():
    logits = model(inputs)  # (B, T, V)
    flat = F.cross_entropy(logits.reshape(-1, len(tokenizer)), targets.reshape(-1), ignore_index=IGNORE).item()
    total, count, _ = sft_loss(model, (inputs, targets))
    logprobs = F.log_softmax(logits, -1).data
by_hand = -np.mean([logprobs[b, t, targets[b, t]] for b, t in zip(*np.nonzero(learned))])
assert np.isclose(flat, by_hand, atol=1e-4) and np.isclose(total.item() / count, by_hand, atol=1e-4)
print(f"the mean over those {count} of {learned.size} places: {by_hand:.2f}, by hand, by -100 and by sft_loss")

ids, marks = conversations[0]
with lesson.picture("mask", "What is learned from (grey) in one conversation", size=(11, 2.2)) as axes:
    pieces = [printable(tokenizer.decode([i])).replace("\n", "\\n").strip() for i in ids]
    axes.bar(range(len(ids)), 1, width=0.96, color=["0.75" if mark else "white" for mark in marks], edgecolor="black")
    for place, piece in enumerate(pieces):
        axes.text(place, 0.5, piece, rotation=90, ha="center", va="center", fontsize=9)
    axes.set(xlabel="position (tokens)", yticks=[], xlim=(-0.6, len(ids) - 0.4))

# %% The loop
groups = [(taught, "taught in SFT"), (held_out, "only in the text"), (unknown, "in no text")]


def measure(how: str) -> dict[str, tuple[float, float]]:
    """For each group of countries: how many answers are right, and how many have the form of an answer and end."""
    found = {}
    for group, name in groups:
        replies = ask(model, tokenizer, [question(c) for c in group], TEMPLATES[how](tokenizer), max_new_tokens=8)
        right = np.mean([r.ended and r.text == answer(c) for r, c in zip(replies, group)])
        formed = np.mean([r.ended and r.text.startswith("It is ") and r.text.endswith(".") for r in replies])
        found[name] = (float(right), float(formed))
    return found


in_chat, *others = TEMPLATES
untuned = measure(in_chat)
optimizer = optim.AdamW(optim.decay_groups(model.named_parameters(), 0.1), lr=1e-3, betas=(0.9, 0.99))
steps = 80
schedule = optim.WarmupCosine(optimizer, 4, steps)
batches = ShuffledBatches(conversations, 16, collate)
losses = []
model.train()
for _ in range(steps):
    inputs, targets = next(batches)  # 1. a batch: this is all that differs, conversations and -100
    total, count, _ = sft_loss(model, (inputs, targets))  # 2. forward, the cross-entropy of always
    loss = total / count
    model.zero_grad()
    loss.backward()  # 3. backward
    optim.clip_grad_norm_(model.parameters(), 1.0)  # 4. clip
    optimizer.step()  # 5. step
    schedule.step()
    losses.append(loss.item())
model.eval()
print(f"{steps} steps: loss {losses[0]:.2f} -> {losses[-1]:.2f} (knowing nothing: {math.log(len(tokenizer)):.2f}; at")
print("first it is worse than that, as it is sure of what follows in its book, and no book has gone on like this)")

# %% Format, not knowledge
tuned = measure(in_chat)
print(f"{'answers about countries':26}{'right: before':>14}{'after':>7}{'in form: before':>17}{'after':>7}")
for group, name in groups:
    (right, formed), (right_now, formed_now) = untuned[name], tuned[name]
    print(f"{name:18} ({len(group):2})    {right:14.0%}{right_now:7.0%}{formed:17.0%}{formed_now:7.0%}")
assert tuned["only in the text"][0] > tuned["in no text"][0] and tuned["in no text"][1] > 0.5
print("it now answers about countries that no conversation mentioned: the knowledge is that of pretraining. About")
print("countries of which it has never read it answers in the same perfect form, and wrongly:")
for country in (some, unknown[0]):
    reply = ask(model, tokenizer, [question(country)], TEMPLATES[in_chat](tokenizer))[0]
    print(f"  {question(country)[0]['content']}  {reply.text}  (right: {capitals[country]})")

print("One seed; pretraining, rate and steps were chosen by looking at this table, among some 25 settings. At twice")
print("the rate the taught answers are all right still, and of those only in the text about half: a small model soon")
print("learns by heart what it sees.")

# %% The wrong template
shares = {in_chat: tuned["taught in SFT"][0]}
for how in others:
    shares[how] = measure(how)["taught in SFT"][0]
    reply = ask(model, tokenizer, [question(taught[0])], TEMPLATES[how](tokenizer), max_new_tokens=8)[0]
    print(f"{how}: {shorten(reply.text) or '(nothing)'}")
assert all(shares[how] < 0.5 * shares[in_chat] for how in others)
print("right answers to the very questions it was taught:", {how: f"{share:.0%}" for how, share in shares.items()})
print("the template is not decoration: it is the format that was learned")
with lesson.picture("format", "SFT teaches format, not knowledge", columns=3, size=(13, 3.8)) as (one, two, three):
    one.plot(losses, color="0.75", label="loss of a batch")
    one.plot(smooth(losses, 8), color="black", label="mean of 8")
    one.set(xlabel="step", ylabel="loss (nats per learned token)", title="instruction tuning")
    one.legend(frameon=False)
    pairs = {f"{name.replace(' ', chr(10), 1)}\n{kind}": tuned[name][i] for _, name in groups
             for i, kind in enumerate(("right", "in form"))}  # fmt: skip
    bars(two, pairs, "share of answers", ".0%", ("", "///"))
    two.tick_params(axis="x", labelsize=7)
    two.set(title="by what was read of the country")
    bars(three, {how.replace(" ", "\n", 1): share for how, share in shares.items()}, "share of right answers", ".0%")
    three.tick_params(axis="x", labelsize=8)
    three.set(title="taught questions, three templates")

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start loss_masking`
# - read: finetune/data/chat_template.py and finetune/objectives/sft.py; then scripts/sft.py --help
# - break: `python scripts/break.py wrong_template`; and above, lr=2e-3: does it still answer what it was not taught?
# - lesson: `python scripts/lesson.py 443`
