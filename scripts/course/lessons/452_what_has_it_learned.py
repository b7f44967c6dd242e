"""Lesson 4.5.2: what has it learned?

A loss says how well a model predicts, and not how. This lesson looks inside: at what each head attends to, at what the
model would say after each layer, and at what it can no longer do when a part is switched off. A small model grows an
induction head before our eyes, the mechanism behind learning from the context: [A] [B] ... [A] -> [B].
Elhage et al. 2021, "A mathematical framework for transformer circuits"; Olsson et al. 2022, "In-context learning and
induction heads"; nostalgebraist 2020 (logit lens); Meng et al. 2022 (activation patching).
"""

import copy

import numpy as np

from gpt import Llama, LlamaConfig
from gpt.interpretability import ablated, attention_patterns, logit_lens, patch_effects
from gpt.interpretability.induction import follows_earlier, induction_scores, repeated_tokens
from gpt.training.loading import load_model
from gpt.weights import hub
from gpt.weights.gguf_file import GGUFError
from minigrad import manual_seed, no_grad, optim, use_kernels
from minigrad.muon import Muon, muon_groups
from scripts.course.pictures import Lesson, heatmap

lesson = Lesson("452_what_has_it_learned", __doc__)
T, V, STEPS = 32, 32, 500

# %% A task that only copying solves
# Random tokens, and then the same ones again. Nothing can be learned about the tokens themselves, because each row has
# others. But once a row repeats, the next token is known: it is the one that followed last time. The rows repeat after
# different numbers of tokens, so no position is always the right one to copy from.
test_ids, periods = repeated_tokens(np.random.default_rng(lesson.seed + 99), 64, T + 1, V)
known = np.arange(1, T + 1) >= periods[:, None] + 1  # targets that a copy of the context predicts
print("a row that repeats after", periods[0], "tokens:", test_ids[0, : 2 * periods[0]])
followed = follows_earlier(test_ids[:, :-1]).argmax(axis=-1)  # (B, T): the place after the first occurrence of a token
assert (np.take_along_axis(test_ids, followed, axis=1) == test_ids[:, 1:])[known].all()  # there stands the target

# %% [markdown]
# The model has two layers of two heads. We watch its loss, and the **induction score** of its heads: at a token that
# has occurred before, the attention to the tokens that followed it then (1: all of it).
#
# Predict: will the loss fall evenly, or will there be a time when little happens, and then a bend?

# %% Growing an induction head
# The optimizer is Muon (lesson 453). With AdamW the same happens, but with some seeds it takes more than 700 steps.


def losses_on_test(model: Llama) -> tuple[float, float]:
    """The mean loss of new tokens, and of tokens that the context predicts."""
    with no_grad():
        losses = model.loss(test_ids[:, :-1], test_ids[:, 1:], reduction="none").data
    return float(losses[~known].mean()), float(losses[known].mean())


def grow(seed: int, n_layer: int = 2) -> tuple[Llama, list[tuple[int, float, float, float]]]:
    """A model after STEPS steps; on the way: step, loss of new tokens, of repeated ones, highest induction score."""
    manual_seed(seed)
    model = Llama(LlamaConfig(V, T, n_layer=n_layer, n_head=2, n_kv_head=2, n_embd=64, n_inner=128))
    matrices = model.model.layers.parameters()
    optimizer = Muon(muon_groups(model.named_parameters(), matrices, weight_decay=0.01), lr=1e-2)
    schedule = optim.WarmupCosine(optimizer, 30, STEPS)
    rng, history = np.random.default_rng(seed), []
    for step in range(STEPS + 1):
        if step % 25 == 0:
            history.append((step, *losses_on_test(model), float(induction_scores(model).max())))
        ids, _ = repeated_tokens(rng, 32, T + 1, V)
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model, history


with use_kernels("fast"):
    model, history = grow(lesson.seed)
    *_, one_layer = grow(lesson.seed, n_layer=1)[1]  # the control
for step, new, repeated, score in history[::4]:
    print(f"step {step:4}  loss of new tokens {new:.2f}, of repeated ones {repeated:.2f}; induction score {score:.2f}")
print(f"one layer only, step {STEPS}: loss of repeated tokens {one_layer[2]:.2f}; induction score {one_layer[3]:.2f}")
steps, new_losses, repeated_losses, best_scores = map(np.array, zip(*history))
assert abs(new_losses[0] - np.log(V)) < 0.1 and abs(repeated_losses[0] - np.log(V)) < 0.1  # nothing is known
assert repeated_losses[-1] < 1 and new_losses[-1] > 2.5 and one_layer[2] > 1.5
assert best_scores[-1] > one_layer[3] + 0.2 and one_layer[3] < 0.2
falls = -np.diff(repeated_losses)
assert falls.max() > 2 * falls[:4].mean()  # slow at first, then fast; 1 for an even fall
with lesson.picture("bend", "An induction head forms, and the loss bends", 2, size=(10, 3.5)) as (left, right):
    left.plot(steps, repeated_losses, label="repeated tokens")
    left.plot(steps, new_losses, linestyle=":", label="new tokens")
    left.set(xlabel="step", ylabel="loss (nats)")
    right.plot(steps, best_scores)
    right.set(xlabel="step", ylabel="highest induction score", ylim=(0, 1))

# %% [markdown]
# Answer: for about a hundred steps the model learns only to prefer the tokens of the row, and the loss of the repeated
# ones stays near 3. Then this loss bends downward, and the induction score of a head rises with it or a little later. A
# model of one layer, the control, has no such head and cannot copy. Heads of two layers have to work together, and
# neither helps without the other. In large models the same bend is visible in the training loss of real text.

# %% Finding it: a score
# Which head is it, and which head of the layer below tells each token what came before it? In the picture, induction is
# a slanted line of dark cells below the diagonal, as far from it as the row's period minus one; attention to the
# previous token is dark directly below the diagonal.
scores = induction_scores(model)
best = np.unravel_index(scores.argmax(), scores.shape)
print(scores.round(2))
print(f"the induction head is head {best[1]} of layer {best[0]}")
assert best[0] == 1, "the induction head must be in layer 1: it needs the layer below"
rows, periods = repeated_tokens(np.random.default_rng(0), 16, T, V)  # the rows of the score
weights = attention_patterns(model, rows)[best[0], :, best[1]]  # (B, T, T)
found = []  # at each token that occurred before: the attention to the token after that occurrence
for b, period in enumerate(periods):
    for t in range(period, T):
        after = np.arange(t - period + 1, 0, -period)  # the same token was at t - period, t - 2 period, ...
        found.append(weights[b, t, after].sum())
print(f"by hand, the mean over the {len(found)} tokens of {rows.size} that occurred before: {np.mean(found):.3f}")
assert np.isclose(scores[best], np.mean(found), atol=1e-4), "the score must be a mean over tokens that came before"
patterns = attention_patterns(model, test_ids[:1, :-1])[:, 0]  # (L, H, T, T)
previous = patterns[0][:, np.arange(1, T), np.arange(T - 1)].mean(axis=1)  # attention to the token before
helper = int(previous.argmax())
evenly = float(np.mean(1 / np.arange(2, T + 1)))  # the control: attention that is spread over all tokens so far
print(f"attention of layer 0's heads to the previous token: {previous.round(2)}; spread evenly {evenly:.2f}")
assert previous.max() > 1.5 * evenly
with lesson.picture("heads", "The two heads that copy", 2, size=(10, 5)) as (left, right):
    for axes, weights, name in (
        (left, patterns[0, helper], f"layer 0, head {helper}: previous token"),
        (right, patterns[best], f"layer 1, head {best[1]}: induction"),
    ):
        heatmap(axes, weights, [""] * T, [""] * T, numbers="")
        axes.set(xlabel="attends to", ylabel="token", title=name)

# %% [markdown]
# Predict: the induction heads are switched off. Which loss suffers, that of new tokens or that of repeated ones? And if
# only the head that looks at the previous token is switched off, or the other head of its layer?

# %% Taking it out: ablation
inducers = [(int(layer), int(head)) for layer, head in np.argwhere(scores > 0.3)]
whole = losses_on_test(model)
with ablated(model, heads=inducers):
    without = losses_on_test(model)
layer_0 = {}
for head in (0, 1):
    with ablated(model, heads=[(0, head)]):
        layer_0[head] = losses_on_test(model)
without_helper, without_other = layer_0[helper], layer_0[1 - helper]
print(f"whole model:                              new {whole[0]:.2f}, repeated {whole[1]:.2f}")
print(f"without the induction heads {inducers}: new {without[0]:.2f}, repeated {without[1]:.2f}")
print(f"without the previous-token head (0, {helper}):   new {without_helper[0]:.2f}, repeated {without_helper[1]:.2f}")
print(f"without the other head (0, {1 - helper}): new {without_other[0]:.2f}, repeated {without_other[1]:.2f}")
by_hand = copy.deepcopy(model)  # a head is off where its columns of W_O, 32 of 64, are 0
by_hand.model.layers[0].self_attn.o_proj.weight.data[:, 32 * helper : 32 * (helper + 1)] = 0
assert np.allclose(losses_on_test(by_hand), without_helper, atol=1e-4)
assert without[1] > whole[1] + 1.5 and max(without_helper[1], without_other[1]) > whole[1] + 1.5
assert abs(without[0] - whole[0]) < without[1] - whole[1]

# %% [markdown]
# Answer: without the induction heads, that of the repeated tokens: the model cannot copy. Without a head of layer 0
# both suffer, because everything above reads what this layer writes. Copying breaks without at least one of the two.
# Which one costs more differs from seed to seed, and it is not always the one that looks more at the previous token: a
# score shows where a head looks, and only ablation shows what that is good for.

# %% The logit lens: what would it say after each layer?
# Every layer adds to the same stream, so the output layer can read the stream after any of them.
lens = logit_lens(model, test_ids[:, :-1])  # (L, B, T, V)
right_token = lens.argmax(axis=-1) == test_ids[:, 1:]
for layer, right in enumerate(right_token):
    print(f"after layer {layer}: {right[known].mean():.0%} of the repeated tokens are predicted")
assert right_token[1][known].mean() > right_token[0][known].mean() + 0.3
assert np.allclose(lens[-1], model(test_ids[:, :-1]).data, atol=1e-4)  # after the last layer: the model itself

# %% Activation patching: where is the answer?
# Two rows that differ in one token, the one that is to be copied. We run the model on the second row, but with one
# activation taken from the first, and ask whether it answers as on the first.
period = 10
clean = np.resize(np.arange(period), period + 4)  # 0 1 2 3 ... 9 0 1 2 3: next comes 4
corrupted = clean.copy()
corrupted[4] = 20  # now next comes 20
effects = patch_effects(model, clean, corrupted, lambda logits: float(logits[-1, 4] - logits[-1, 20]))
print("after layer 0, place:", {place: round(float(effect), 2) for place, effect in enumerate(effects[0])})
assert np.allclose(effects[1], np.eye(len(clean))[-1], atol=1e-3)  # only the last place is read, and nothing follows
assert effects[0].argmax() in (4, 5)
with lesson.picture("patching", "How much of the clean answer one activation brings back", size=(9, 2.2)) as axes:
    heatmap(axes, effects, ["after layer 0", "after layer 1"], [str(token) for token in clean])

# %% [markdown]
# In the picture, a dark cell is an activation that brings the clean answer back. After the first layer the answer is
# still at the place of the token itself, or at the next place, to which layer 0's heads have copied it. The second
# layer carries it to the last place: that is the induction head at work.

# %% The same in a real model: SmolLM2
try:
    hub.find("smollm2")
except (FileNotFoundError, GGUFError) as error:
    print(f"({error})")
else:
    smol, tokenizer = load_model("smollm2")
    ids = np.array([tokenizer.encode("The capital of France is")])
    for layer, logits in list(enumerate(logit_lens(smol, ids)[:, 0, -1]))[4::5]:
        print(f"after layer {layer:2}: {tokenizer.decode([int(logits.argmax())])!r}")
    smol_scores = induction_scores(smol, rows=2)
    strongest = np.unravel_index(smol_scores.argmax(), smol_scores.shape)
    print(f"strongest induction head: layer {strongest[0]}, head {strongest[1]}, score {smol_scores.max():.2f}")
    assert smol_scores.max() > 0.3  # real models have them, too

# %% [markdown]
# ## What next
#
# - exercise: `python scripts/exercise.py start induction`, ablation
# - try: `grow(lesson.seed + 1)`. Expect: the bend is within 50 steps of this one, and perhaps the other head of layer 1
#   has the highest score.
# - break: in `grow`, let all rows repeat after 12 tokens: `ids = np.array([np.resize(rng.permutation(V)[:12], T + 1)
#   for _ in range(32)])`. Expect: no induction head either, and a loss of repeated tokens near 10. The model knows
#   a distance: it copies from 12 tokens back, which is wrong in the test's rows.
