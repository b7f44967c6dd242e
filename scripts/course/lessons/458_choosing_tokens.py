"""Lesson 4.5.8: choosing the next token: min-p, a draft model, an answer in a given form

This goes beyond the course. A model gives a distribution, and what is drawn from it is our choice. Three questions:
which unlikely tokens should be left out? Can a small model draw, and the text still be the large one's? Can an answer
be kept to a form that a program can read, without another model?
Nguyen et al. 2024, arXiv 2407.01082 (min-p), disputed by Schaeffer et al. 2025, 2506.13681; Leviathan et al. 2023,
2211.17192 (speculative decoding); Willard & Louf 2023, 2307.09702 (constrained decoding).
"""

import json
from contextlib import suppress
from typing import Any

import numpy as np

from gpt.model.batch_generation import stream
from gpt.model.constrained_decoding import in_form, json_object
from gpt.model.generation import Sampling
from gpt.model.speculation import after_guess, speculate
from gpt.training.loading import load_model
from minigrad import no_grad, use_kernels
from scripts.course.lessons.small_gpt import english, new_gpt, train
from scripts.course.pictures import Lesson, generation_loop

use_kernels("fast")
lesson = Lesson("458_choosing_tokens", __doc__)

# %% The limitation: a tail of nonsense
# A model gives every token some probability. Those of wrong tokens are small, but there are many such tokens, and a
# high temperature raises them. Top-p (lesson 4.1.1) keeps the most likely tokens with a total probability of p.
# **Min-p** keeps each token that is at least min_p times as likely as the most likely one.
#
# Let a model find four tokens sensible, and give 60 others a thousandth each, 6 % together.
#
# Predict: how likely is one of the 60 at temperature 2? How many of them does top-p leave there, with p = 0.9, and how
# many min-p, with 0.1? And if top-p leaves tokens out *before* the temperature raises the rest?

# %%
logits = np.log([0.5, 0.25, 0.13, 0.06] + [0.001] * 60)
settings = {
    "temperature 1": Sampling(1.0),
    "temperature 2": Sampling(2.0),
    "temperature 2, top-p 0.9": Sampling(2.0, top_p=0.9),
    "temperature 2, min-p 0.1": Sampling(2.0, min_p=0.1),
}
drawn = {name: sampling.probabilities(logits) for name, sampling in settings.items()}
drawn["top-p 0.9, then temperature 2"] = np.sqrt(Sampling(1.0, top_p=0.9).probabilities(logits))
drawn["top-p 0.9, then temperature 2"] /= drawn["top-p 0.9, then temperature 2"].sum()
nonsense = {name: probs[4:].sum() for name, probs in drawn.items()}
for name, probs in drawn.items():
    print(f"{name:30} {np.count_nonzero(probs):2} tokens left, one of the 60: {nonsense[name]:4.0%}")
with lesson.picture(
    "tail", "What a temperature of 2 does to the tail, and three cuts", columns=5, size=(12, 2.8)
) as five:
    for axes, (name, probs) in zip(five, drawn.items()):
        axes.bar(range(20), probs[:20], alpha=0.65)
        axes.set(title=name.replace(", ", ",\n"), xlabel="token, to 20 of 64", ylim=(0, 0.62))
assert nonsense["temperature 1"] < 0.1 < 0.5 < nonsense["temperature 2"], "a temperature must raise the tail"
assert nonsense["temperature 2, top-p 0.9"] > 0.4, "top-p counts the tail that the temperature has raised"
assert np.count_nonzero(drawn["temperature 2, min-p 0.1"]) == 4, (
    "min-p must keep the four sensible tokens, and only these"
)
assert nonsense["top-p 0.9, then temperature 2"] == 0, "before the temperature, top-p leaves out the tail as well"

# %% [markdown]
# Answer: 51 %. Top-p leaves most of them, because they are needed to get to 90 %; min-p leaves none. But the order does
# as much: if top-p cuts first, the tail is gone as well. Many programs apply the temperature first, and so does ours.
# Whether people prefer texts by min-p is disputed: Schaeffer et al. do not find it in the paper's own data.

# %% A small model guesses, and the text stays the large one's
# In lesson 4.3.3 the text guesses its next tokens. A small model, the **draft**, can guess as well: it draws token x
# from its probabilities q. The large model reads it, and has p for the same place. The guess is accepted with
# probability min(1, p(x) / q(x)). Otherwise a token is drawn from max(0, p - q), scaled to sum to 1.
#
# How far apart p and q are is their total variation distance, TV = Σ |p - q| / 2: 0 for equal distributions, 1 if they
# have nothing in common.
#
# Predict: how often is a guess accepted, if TV(p, q) = 0.4? And how are the tokens distributed?

# %%
rng = np.random.default_rng(lesson.seed)
p, q = np.array([0.6, 0.3, 0.1, 0.0]), np.array([0.2, 0.4, 0.1, 0.3])
both = np.minimum(p, q)
missing = (p - both) / (p - both).sum()  # what p has more, as probabilities
with lesson.picture("guess", "A guess from q, kept or replaced, is a token from p", columns=2, size=(10, 3.6)) as (
    left,
    right,
):
    places = np.arange(4)
    left.bar(places - 0.2, p, 0.4, alpha=0.65, label="p, the large model")
    left.bar(places + 0.2, q, 0.4, alpha=0.65, label="q, the draft")
    right.bar(places, both, alpha=0.65, label="accepted: min(p, q)")
    right.bar(places, p - both, bottom=both, alpha=0.65, label="after a refusal: p - min(p, q)")
    for axes in (left, right):
        axes.set(xlabel="token", ylabel="probability", ylim=(0, 0.8), xticks=places)
draws = []
for x in rng.choice(4, 20_000, p=q):
    number = rng.random()
    probs = np.eye(4)[x] if number < p[x] / q[x] else missing  # the guess, or a token that is drawn instead
    assert np.allclose(probs, after_guess(p, q, x, number)), "after_guess must accept with probability min(1, p / q)"
    draws.append((x, probs))
accepted = np.mean([probs[x] == 1 for x, probs in draws])
tokens = np.mean([probs for _, probs in draws], axis=0)
redrawn = np.mean([probs if probs[x] == 1 else p for x, probs in draws], axis=0)  # the control: a refusal draws from p
print(f"accepted {accepted:.3f}; tokens {tokens}; with a redraw from p {redrawn}")
assert abs(accepted - (1 - np.abs(p - q).sum() / 2)) < 0.015, "a guess is accepted with probability 1 - TV"
assert np.abs(tokens - p).max() < 0.015, "the tokens must have the probabilities p"
assert np.abs(redrawn - p).max() > 0.1, "a redraw from p itself would prefer what q guesses"

# %% [markdown]
# Answer: with probability 1 - TV = 0.6, and the tokens have the probabilities p, whatever q is. Token x is drawn and
# accepted with probability q(x) min(1, p(x) / q(x)) = min(p(x), q(x)). What p(x) has more comes after a refusal.
#
# So a whole text must be the large model's as well. Two models with random weights disagree about most tokens: TV is
# about 0.5. One writes 40 texts, and the other guesses.
#
# Predict: how often comes the token that the large model likes best: as often as it says, or as the draft says?

# %%
large, draft = (new_gpt(8, lesson.seed + n, n_layer=1, n_embd=32, tied=False) for n in (0, 100))
sampling = Sampling(0.1)
texts = np.array(
    [[0, *sum(speculate(large, [0], 31, sampling, seed, draft=draft), [])] for seed in range(40)]
)  # (40, 32)
of_large, of_draft = (
    np.array([sampling.probabilities(row) for row in model(texts[:, :-1]).data.reshape(-1, 8)])
    for model in (large, draft)
)  # (40 * 31, 8) each: the probabilities of the token in each place
order = np.argsort(-of_large, axis=1)  # the tokens, from the large model's likeliest on
expected = np.take_along_axis(of_large, order, axis=1).mean(axis=0)
guessed = np.take_along_axis(of_draft, order, axis=1).mean(axis=0)
came = (order == texts[:, 1:].reshape(-1, 1)).mean(axis=0)
print("the large model's eight tokens, from its likeliest on", f"it expects {expected}", f"they came  {came}", sep="\n")
print(f"the draft  {guessed}")
with lesson.picture("draft", "How often a token comes in 40 texts, by its rank for the large model") as axes:
    for shift, shares, name in (
        (-0.25, expected, "the large model expects"),
        (0, came, "came"),
        (0.25, guessed, "the draft"),
    ):
        axes.bar(np.arange(1, 9) + shift, shares, 0.25, alpha=0.65, label=name)
    axes.set(xlabel="rank", ylabel="share")
assert np.abs(came - expected).max() < 0.06, "with a draft, the text must still have the large model's distribution"
assert np.abs(guessed - expected).max() > 0.15, "the draft alone would write something else"

# %% [markdown]
# Answer: as often as the large model says, though every guess is the draft's.
#
# Predict: a draft of one layer, half as wide, makes four guesses, and the large model reads them in one pass. How many
# tokens does a pass give at temperature 0.7? With a draft that has learned nothing? If the text guesses?

# %%
STEPS, SEEDS = 300, range(5)


def passes() -> dict[str, list[float]]:
    """The tokens per pass of the large model for each guesser, in each seed."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        large, draft, blank = new_gpt(512, seed), *(new_gpt(512, seed, n_layer=1, n_embd=32) for _ in range(2))
        for model in (large, draft):
            train(model, english()[1], STEPS, seed=seed)
        prompts = [english()[2][n : n + 16] for n in range(0, 100, 20)]
        guessers = {"trained draft": draft, "untrained draft": blank, "the text": None}
        for name, guesser in guessers.items():
            runs = [list(speculate(large, ids, 60, Sampling(0.7), seed, draft=guesser)) for ids in prompts]
            found.setdefault(name, []).append(round(300 / sum(map(len, runs)), 2))
    return found


found = lesson.measured("passes", passes)
STEPS, SEEDS = 100, range(lesson.seed, lesson.seed + 1)  # the same in small, now
today = passes()
print("today, after 100 steps:", today, "\nafter 300 steps, seeds 0 to 4:", found)
assert min(found["trained draft"]) > 2, "a trained draft must save more than every second pass"
assert max(found["untrained draft"] + found["the text"]) < 1.3
assert min(today["trained draft"]) > max(today["untrained draft"] + today["the text"]) + 0.5

# %% [markdown]
# Answer: 2.1 to 2.5 with the trained draft, 1.0 to 1.2 with the others. The most would be five: four guesses and the
# token after them. Tokens per pass are not yet speed, as the draft's own passes take time as well. This text does not
# repeat itself: where it does, the text guesses well, and its guesses cost nothing (lesson 4.3.3).

# %% An answer that a program can read
# A program that reads an answer needs a form, such as JSON. Do not hope, but forbid: at each step only those tokens may
# come with which the text remains a beginning of the form. The logits of all others become -inf, and the model's own
# probabilities decide among the rest.
#
# Predict: how many answers of a model with random weights are JSON, with and without the form? And of SmolLM2, which is
# shown two examples first, at temperatures 0, 0.7 and 1.5?

# %%
KINDS = {"capital": "boolean", "rivers": "number"}
EXAMPLES = 'Madrid:\n{"capital": true, "rivers": 1}\nKoblenz:\n{"capital": false, "rivers": 2}\n'
CITIES = (
    "Paris Kyoto Nice Cairo Lima Oslo Pisa Delhi Perth Rome Quito Lyon Seoul Hanoi Bonn Porto Accra Dakar Osaka Bern"
)


def readable(model: Any, tokenizer: Any, T: float, process: Any) -> int:
    """How many of 20 answers begin with a line that is a JSON object."""
    prompts, count = [tokenizer.encode(f"{EXAMPLES}{city}:\n") for city in CITIES.split()], 0
    steps = list(stream(model, prompts, 60, Sampling(T), 0, [tokenizer.eos_token_id], process=process))
    for row in np.array(steps).T.tolist():
        answer = tokenizer.decode([token for token in row if token >= 0], skip_special_tokens=True)
        with suppress(ValueError):
            count += isinstance(json.loads(answer.partition("\n")[0]), dict)
    return count


def smollm2() -> dict[str, list[int]]:
    """The readable answers of SmolLM2 at temperatures 0, 0.7 and 1.5, without and with the form."""
    model, tokenizer = load_model("smollm2")
    forms = {"free": None, "in the form": in_form(json_object(KINDS), tokenizer)}
    return {name: [readable(model, tokenizer, T, form) for T in (0, 0.7, 1.5)] for name, form in forms.items()}


random, tokenizer = new_gpt(512, lesson.seed), english()[0]
free, kept = (readable(random, tokenizer, 1.5, form) for form in (None, in_form(json_object(KINDS), tokenizer)))
read = lesson.measured("smollm2", smollm2, readable)
print(f"random weights: {free} of 20, in the form {kept}; SmolLM2 at temperatures 0, 0.7 and 1.5: {read}")
assert free == 0, "random weights write no JSON by themselves"
assert kept == 20, "in the form, every answer can be read"
assert read["free"][2] < read["free"][0], "a high temperature breaks the form"

# %% [markdown]
# Answer: none, and all. Random weights know nothing of cities, so the answers are in the form and mean nothing: a form
# makes an answer readable, not right. SmolLM2 needs no form if it always takes the likeliest token: the two examples
# suffice. At 0.7 two of 20 answers cannot be read, at 1.5 none can. In the form, all can be read.
#
# What happens to the probabilities? SmolLM2 is asked "Is Lyon the capital of France? Answer as JSON:", and always takes
# the likeliest token that the form allows.
#
# Predict: at each step, what becomes of the probability of the tokens that are forbidden? And how many are left?


# %%
def softmax(logits: np.ndarray) -> np.ndarray:
    exps = np.exp(logits - logits.max())
    return exps / exps.sum()


def answer() -> list[dict[str, Any]]:
    """The steps of an answer: the text so far, how many tokens are left, and the likeliest, free and in the form."""
    model, tokenizer = load_model("smollm2")
    prompt, new, steps = tokenizer.encode("Is Lyon the capital of France? Answer as JSON: "), [], []
    process = in_form(json_object({"capital": "boolean"}), tokenizer)
    while new[-1:] != [tokenizer.eos_token_id]:
        with no_grad():
            logits = model([prompt + new]).data[0, -1].astype(float)
        free, kept = softmax(logits), softmax(process(logits, new))
        best = int(kept.argmax())
        step = {"text": tokenizer.decode(new), "drawn": tokenizer.decode([best]), "left": int(np.count_nonzero(kept))}
        for name, probs in (("free", free), ("in the form", kept)):
            shown = [id for id in [best, *np.argsort(-probs)[:3].tolist()] if probs[id] > 0]
            step[name] = {tokenizer.decode([id]): round(float(probs[id]), 6) for id in shown}
        steps.append(step)
        new.append(best)
    return steps


steps = lesson.measured("answer", answer, softmax)
for step in steps:
    print(
        f"{step['text']!r:22} {step['left']:2} tokens may come; {step['drawn']!r} had {step['free'][step['drawn']]:.2%}"
    )
with lesson.picture("answer", "An answer in the form, token by token", rows=2, size=(10, 6)) as pair:
    for axes, name in zip(pair, ("free", "in the form")):
        generation_loop(axes, [(step["text"], step[name], step["drawn"]) for step in steps], shown=3)
        axes.set(title=f"SmolLM2's probabilities, {name}")

process = in_form(json_object({"capital": "boolean"}), tokenizer)
logits = rng.standard_normal(len(tokenizer))  # any, at the place after {"capital":
new = tokenizer.encode('{"capital": ')
allowed = np.isfinite(process(logits, new))
restricted = np.where(allowed, softmax(logits), 0)
print("after", repr(tokenizer.decode(new)), "may come", [tokenizer.decode([id]) for id in np.flatnonzero(allowed)])
assert 0 < allowed.sum() < 10, "only beginnings of true and false may come"
assert np.allclose(softmax(process(logits, new)), restricted / restricted.sum()), "the rest must keep its proportions"

# %% [markdown]
# Answer: it goes to the tokens that are left, 1 to 10 of 49,152, in proportion to what they had. After `{"capital": `,
# SmolLM2 would rather write a number; "false" had hardly any probability, and has 62 % of what is left. What the model
# knows still decides, but only between true and false.
#
# The tokens that are left keep their order, but an answer does not keep the probability that the model gives it among
# all answers in the form: step by step, nobody looks ahead. Let an answer begin with A (90 %) or B, and let the model
# go on in the form after A in 1 % of the cases, after B in 90 %.
#
# Predict: how likely is A token by token, and among all answers in the form?

# %%
begins, goes_on = np.array([0.9, 0.1]), np.array([0.01, 0.9])
among_all = begins * goes_on / (begins @ goes_on)  # Bayes: of the answers in the form, which begin with A or B
print(f"A, token by token {begins[0]:.0%}; among the answers in the form {among_all[0]:.0%}")
assert among_all[0] < 0.1 < begins[0], "a choice that leads out of the form costs nothing when it is made"

# %% [markdown]
# Answer: 90 % and 9 %.
#
# ## What next
#
# - exercise: `python scripts/exercise.py start speculative`, sampling
# - read: gpt/model/speculation.py, from `after_guess` on; gpt/model/constrained_decoding.py, a page
# - try: `python scripts/generate.py --model smollm2 --prompt "Ann is 31 and tall. " --json name:string age:number`.
#   Expect: an object with both keys, whatever its values are: with `--seed 1`, the name was "42", and the age 31.
# - break: `python scripts/generate.py --model smollm2 --temperature 3`. Expect: nonsense. With `--min-p 0.3` it can be
#   read again.
# - lesson: `python scripts/lesson.py 411`, where all of it began
