"""Lesson 4.4.5: the whole pipeline, from random numbers to an assistant in four bits

Nothing new, and everything together: pretraining, instruction tuning, preference optimization, LoRA and quantization.
Each stage starts from the model of the stage before. This lesson measures what each stage adds, leaves stages out and
swaps them, and asks at the end how much a stage should be allowed to change.
Ouyang et al. 2022 (InstructGPT); Rafailov et al. 2023 (DPO); Pang et al. 2024 (DPO with an SFT term); Hu et al. 2022
(LoRA); Dettmers et al. 2023 (QLoRA).
"""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from finetune import LoRAConfig, apply_lora, merge_lora
from finetune.adapters.adapter_files import save_adapter
from finetune.built_in.tasks import made_up_word
from finetune.data.chat_template import ChatTemplate, Message, add_chat_tokens
from finetune.data.datasets import IGNORE, Example, Preference, ShuffledBatches
from finetune.data.pairs import encode_pairs, pair_batch
from finetune.evaluation.answering import ask, chat_template, shorten
from finetune.loading import add_adapter_to
from finetune.objectives.dpo import dpo_batch_loss, with_reference
from finetune.objectives.logprobs import exact_kl
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.quantization import QuantizationConfig, memory, quantize
from gpt import GPT, Tokenizer
from gpt.training.loading import load_model
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_loop import train_textbook
from minigrad import no_grad, use_kernels
from minigrad.precision import round_bfloat16
from scripts.course.lessons.small_gpt import new_gpt, train, validation_loss, write
from scripts.course.pictures import Lesson

lesson = Lesson("445_pipeline", __doc__)
rng = np.random.default_rng(lesson.seed)

# %% One kind of data per stage
# The world of lesson 442, with 32 invented countries. Their capitals stand in the text for pretraining, and nowhere
# else: not in a question, and for twelve countries not in an answer either.
words = list(dict.fromkeys(made_up_word(rng, "train").capitalize() for _ in range(200)))[:64]
capitals = dict(zip(words[:32], words[32:]))
taught, held_out = list(capitals)[:20], list(capitals)[20:]
WORDINGS = ["The capital of {0} is {1}. ", "In {0} the capital is {1}. ", "Ask for the capital of {0}: it is {1}. ",
            "What is the capital of {0}? "]  # fmt: skip
THANKS, STYLE = " Glad to help!", " Ask!"


def sentence() -> str:
    country = str(rng.choice(list(capitals)))
    return str(rng.choice(WORDINGS)).format(country, capitals[country])


text = "".join(sentence() for _ in range(4000))
names = "".join(f" {word}" for word in [*words, f"user\nassistant\nIt is{THANKS}{STYLE}"]) * 300
tokenizer = Tokenizer.train([text + names], 512)  # each name becomes one token
tokens = np.array(tokenizer.encode(text))
train_ids, val_ids = tokens[:-2048], tokens[-2048:]
print(f"1. pretraining, {len(train_ids):,} tokens: {text[:90]}...")


# %%
def question(country: str) -> list[Message]:
    return [{"role": "user", "content": f"What is the capital of {country}?"}]


def reply(country: str, end: str = "") -> str:
    return f"It is {capitals[country]}.{end}"


def conversation(country: str, end: str) -> Example:
    return Example([*question(country), {"role": "assistant", "content": reply(country, end)}])


shown = [conversation(country, end) for country in taught for end in ("", "", THANKS)]  # a third says more
thanked = [Preference(question(country), reply(country, THANKS), reply(country)) for country in taught]
curt = [Preference(question(country), reply(country), f"{capitals[country]}.") for country in taught]
preferred = thanked + 2 * curt
own = [conversation(country, THANKS + STYLE) for country in taught]
print("2. SFT:   ", *(message["content"] for item in shown[:3] for message in item.messages), sep=" | ")
print("3. DPO:   ", *(f"{pair.chosen} > {pair.rejected}" for pair in preferred[::20]), sep=" | ")
print("4. LoRA:  ", own[0].messages[-1]["content"])

# %% The same questions after every stage
# The twelve countries that no conversation mentions. Is the reply right, and does it have one of the forms that
# were shown? Does it thank, as the pairs prefer? Is it in our own style?
BLOCK = 28
start = new_gpt(len(tokenizer), lesson.seed, n_layer=1, block_size=BLOCK)  # random weights
add_chat_tokens(start, tokenizer)
template = ChatTemplate(tokenizer)
COLUMNS = ("right", "in form", "thanks", "in style", "text loss")


def measure(name: str, model: Any) -> dict[str, float]:
    """Print and return the shares of replies, and the loss on held-out text."""
    replies = ask(model, tokenizer, [question(c) for c in held_out], chat_template(tokenizer), max_new_tokens=16)
    ends = ["", THANKS, THANKS + STYLE]
    of_any = {reply(country, end) for country in capitals for end in ends}
    kinds = [
        [r.text in [reply(c, end) for end in ends], r.text in of_any, THANKS in r.text, r.text.endswith(STYLE)]
        for c, r in zip(held_out, replies)
    ]  # a reply that does not end is none
    shares = np.mean([np.array(kind) & r.ended for kind, r in zip(kinds, replies)], axis=0)
    row = dict(zip(COLUMNS, [*shares.tolist(), validation_loss(model, val_ids)]))
    cells = "".join(f"{value:10.2f}" if key == "text loss" else f"{value:10.0%}" for key, value in row.items())
    print(f"{name:26}{cells}   {shorten(replies[0].text.strip(), 34)}")
    return row


print(f"{'':26}" + "".join(f"{name:>10}" for name in COLUMNS))
measure("random weights", start)

# %% Five stages, each starting from the one before
# All stages share one loop; only the data, the loss and the trained weights differ. A stage returns a new model.
#
# Predict: after which stage are the replies right? After which do they have the form of a reply?


def tune(model: Any, items: Sequence[Any], batch: Callable[..., Any], loss: Any, steps: int, rate: float) -> Any:
    """The training loop of all lessons, with other data and another loss."""
    config = TrainingConfig(max_iters=steps, learning_rate=rate, warmup_iters=steps // 10, weight_decay=0.0)
    with use_kernels("fast"):
        batches, prepared = ShuffledBatches(items, 16, batch, lesson.seed), prepare_training(model, config)
        train_textbook(model, batches, loss, *prepared, steps, config.grad_clip)
    return model


def pretrain(model: GPT) -> GPT:
    """1. Predict the next token of plain text: the facts."""
    model = copy.deepcopy(model)
    with use_kernels("fast"):
        train(model, train_ids, 1000, seed=lesson.seed)
    return model


base = pretrain(start)
rows = {"pretraining": measure("1. pretraining", base)}
print("a statement:", write(base, tokenizer, f"The capital of {held_out[0]} is", 2, temperature=0))

# %%
plain = [(ids.tolist(), [True] * BLOCK) for ids in np.split(train_ids[: 600 * BLOCK], 600)]


def instruct(model: GPT) -> GPT:
    """2. SFT: reply as in the conversations. Half of the items are plain text, so that the language stays."""
    items = encode_examples(shown * 5, template, BLOCK)[0] + plain[: 5 * len(shown)]
    return tune(copy.deepcopy(model), items, collate, sft_loss, 100, 3e-3)


sft = instruct(base)
rows["SFT"] = measure("2. SFT", sft)
assert max(rows["pretraining"]["right"], rows["pretraining"]["in form"]) < 0.1
assert rows["SFT"]["right"] > 0.6 and rows["SFT"]["thanks"] < 0.5

# %% [markdown]
# Answer: replies are right and in form after SFT. The base model completes the statement correctly, so it has the
# fact, but it does not reply. SFT imitates the form that it was shown most often, the one without thanks.
#
# ## Preferences: what a loss of differences forgets
#
# A third of the pairs prefer "It is X. Glad to help!" to "It is X.", and the others "It is X." to a curt "X." So the
# best reply thanks, but only a third of the chosen replies do: they are the replies that SFT has shown.
#
# Predict: DPO's loss sees only by how much more the chosen reply has gained than the rejected one. What happens to the
# probability of the chosen reply itself, and to the replies?

# %%


def dpo_with_sft(model: Any, batch: Any, beta: float, weight: float) -> Any:
    """DPO's loss, plus the SFT loss of the chosen replies times `weight`; for 0, DPO's alone."""
    total, pairs, metrics = dpo_batch_loss(model, batch, beta=beta)
    chosen, count, _ = sft_loss(model, tuple(part[:pairs] for part in batch.shifted()))
    return total + weight * pairs / count * chosen, pairs, metrics


def prefer(model: GPT, steps: int = 40, rate: float = 5e-4, beta: float = 0.5, weight: float = 1.0) -> GPT:
    """3. DPO: prefer the reply with thanks."""
    pairs = with_reference(model, encode_pairs(preferred, template, BLOCK)[0])
    loss = partial(dpo_with_sft, beta=beta, weight=weight)
    return tune(copy.deepcopy(model), pairs, pair_batch, loss, steps, rate)


def show_pairs(name: str, model: GPT) -> np.ndarray:
    """Print and return the mean ln p of what both replies begin with, of the thanks after it, and of no thanks."""
    ids, targets = pair_batch(encode_pairs(thanked, template, BLOCK)[0]).shifted()
    with no_grad():
        chosen, rejected = np.split(-model.loss(ids, targets, IGNORE, reduction="none").data, 2)  # (B, T) each
    same = np.cumprod(np.equal(*np.split(targets, 2)), axis=1)  # 1 up to where the two replies part
    parts = [(chosen * same).sum(), (chosen * (1 - same)).sum(), (rejected * (1 - same)).sum()]
    found = np.array(parts) / len(chosen)
    print(f"  ln p {name:7} 'It is X.' {found[0]:6.2f}, then thanks {found[1]:6.2f}, then the end {found[2]:6.2f}")
    return found


alone = prefer(sft, weight=0)
damaged = measure("3. DPO's loss alone", alone)
before = show_pairs("before", sft)
fall = before - show_pairs("after", alone)
assert fall[2] > fall[1] > max(2, fall[0]) and max(damaged["right"], damaged["in form"]) < 0.1

# %% [markdown]
# Answer: thanks after the capital fall by several nats. That is no contradiction: the rejected end has fallen further,
# so the loss is smaller. After the capital the model now neither thanks nor ends, and goes on with plain text. (The
# literature calls this likelihood displacement.) DPO has broken the replies: hardly any is right or in form.
#
# What helps? Smaller steps; fewer steps; a larger beta, for which a smaller difference is enough; or a second term, the
# SFT loss of the chosen reply, which asks for the reply itself: loss = DPO + SFT(chosen).
#
# Predict: the last row has the second term alone, which is SFT of the chosen replies. Is the preference needed at all?

# %%
measure("a fifth of the rate", prefer(sft, rate=1e-4, weight=0))
measure("a fifth of the steps", prefer(sft, steps=8, weight=0))
measure("beta 2, not 0.5", prefer(sft, beta=2.0, weight=0))
dpo = prefer(sft)
rows["DPO"] = measure("3. DPO and SFT term", dpo)
after = show_pairs("after", dpo)
items = encode_examples(shown, template, BLOCK)[0]
imitators = [tune(copy.deepcopy(sft), items, collate, sft_loss, *of) for of in ((40, 5e-4), (100, 3e-3))]
imitated = [measure("SFT of the chosen replies", model) for model in imitators]
assert rows["DPO"]["right"] > damaged["right"] + 0.4 and after[1] > before[1] + 0.5
assert rows["DPO"]["thanks"] > max(row["thanks"] for row in imitated) + 0.5

# %% [markdown]
# Answer: it is needed. Imitation copies what occurs, and most of the chosen replies do not thank, so the imitators do
# not either, with DPO's steps and rate as with SFT's. Only the comparison says in which direction replies get better.
# The SFT term in turn saves the replies (Pang et al. 2024 add it, and TRL calls its weight `rpo_alpha`). Smaller or
# fewer steps save them with some seeds and not with others: they only end before the damage is done.
#
# If every chosen reply thanked, SFT of the chosen replies would do without preferences. A preference is worth its
# trouble where the best reply is rare among the good ones.

# %%


def adapt(model: GPT, steps: int = 100) -> GPT:
    """4. LoRA: our own style, in an adapter of rank 8 beside frozen weights; then merged.

    The style consists of words that the model knows: an adapter leaves the embedding, and so the output layer, frozen.
    """
    model = copy.deepcopy(model)
    apply_lora(model, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
    items = encode_examples(own, template, BLOCK)[0] + plain[: len(own)]
    tune(model, items, collate, sft_loss, steps, 6e-3)
    merge_lora(model)
    return model


lora = adapt(dpo)
rows["LoRA"] = measure("4. LoRA", lora)
small = copy.deepcopy(lora)  # 5. four bits per weight, without training
quantize(small, QuantizationConfig("nf4", double_quant=True))
rows["4 bits"] = measure("5. four bits", small)
print(f"megabytes: {memory(lora) / 1e6:.2f} -> {memory(small) / 1e6:.2f}")
assert rows["LoRA"]["in style"] > rows["DPO"]["in style"] + 0.5 and rows["4 bits"]["in style"] > 0.5
assert memory(small) < memory(lora) / 3

# %% Leave one out, swap two
# Predict: pretraining, SFT and DPO are left out, one at a time; then two neighbors change places. What is missing from
# the replies each time?
print(f"{'':26}" + "".join(f"{name:>10}" for name in COLUMNS))
changed = {
    "no pretraining": measure("no pretraining", prefer(instruct(start))),
    "no SFT": measure("no SFT (DPO: 300 steps)", prefer(base, 300)),
    "no DPO": measure("no DPO", sft),
    "SFT, then pretraining": measure("SFT, then pretraining", prefer(pretrain(instruct(start)))),
    "DPO, then SFT": measure("DPO, then SFT", instruct(prefer(base))),
}
whole = measure("all, in order", dpo)
lost = {"no pretraining": "right", "no SFT": "thanks", "no DPO": "thanks", "DPO, then SFT": "thanks"}
assert all(changed[name][column] < whole[column] - 0.5 for name, column in lost.items())
assert changed["no pretraining"]["in form"] > 0.5 and changed["no DPO"]["right"] > 0.6

# %% [markdown]
# Answer: without pretraining the form is there, and the facts are not. Without SFT there are no thanks: DPO chooses
# among replies that a model can give, and the base model gives none. With 300 steps instead of 40, the SFT term teaches
# the form instead. Without DPO the thanks are missing, and so they are if SFT comes after DPO, because SFT imitates its
# mixture again. If pretraining comes after SFT, plain text can overwrite the replies; the table shows what it did in
# this run.
#
# **The pipeline is assembly, not invention**: every stage is the loop above with other data and another loss. Nothing
# has to be invented, but the order has to be right. Does that mean that every stage needs every other one?

# %%
without_dpo = measure("LoRA without DPO", adapt(sft))
on_the_base = measure("LoRA on base, 300 steps", adapt(base, 300))
assert without_dpo["in style"] > 0.5 and on_the_base["in style"] < rows["LoRA"]["in style"] - 0.5

# %% [markdown]
# No: LoRA needs SFT, but not DPO. Its examples show the thanks themselves. It needs SFT for the token that ends a
# reply: an adapter leaves the embedding frozen, and no text of pretraining has this token. Even three times as many
# steps bring the style, but no end. A stage needs what its own data leave out.

# %% What fewer bits cost
# **The precision spectrum continues**: 32 bits, 16, 8, 4. Each step rounds the weights more coarsely.
#
# Predict: how far can it go? The last row is the control, one bit: each weight becomes +s or -s, with one s per row.
rounded = {name: copy.deepcopy(lora) for name in ("bfloat16", "int8", "NF4", "GPTQ", "AWQ", "1 bit")}
for p in rounded["bfloat16"].parameters():
    p.data[...] = round_bfloat16(p.data)
for name, method in (("int8", "absmax"), ("NF4", "nf4"), ("GPTQ", "gptq"), ("AWQ", "awq")):
    quantize(rounded[name], QuantizationConfig(method), train_ids[: 32 * BLOCK].reshape(32, BLOCK))
for p in rounded["1 bit"].parameters():
    if p.data.ndim == 2:
        p.data[...] = np.sign(p.data) * np.abs(p.data).mean(axis=1, keepdims=True)

# %%
pieces = val_ids[: 64 * BLOCK].reshape(64, BLOCK)
rise, moved = {}, {}
for name, model in rounded.items():
    rise[name] = 100 * (math.exp(validation_loss(model, val_ids) - rows["LoRA"]["text loss"]) - 1)
    with no_grad():
        moved[name] = exact_kl(lora(pieces), model(pieces)).mean().item()
    print(f"  {name:9} perplexity {rise[name]:+9.2f} %, KL from the model in 32 bits {moved[name]:.5f} nats per token")
assert moved["bfloat16"] < moved["int8"] < moved["NF4"] < moved["1 bit"]
assert abs(rise["int8"]) < 1 and max(rise[name] for name in ("NF4", "GPTQ", "AWQ")) < 5 < 20 < rise["1 bit"]

# %% [markdown]
# Answer: 16, 8 and 4 bits move the predictions more each time, and yet hardly change the perplexity. One bit ruins the
# model: the signs of the weights are not enough. (Lesson 444 takes NF4, GPTQ and AWQ apart.)

# %% How much should I change?
# Our own style once more, now without plain text among the examples: nothing reminds the model of its language. Four
# answers to one question, from "change nothing" to "change everything":
#
# * **frozen**: no weight moves.
# * **LoRA**: the weights are frozen, and an adapter of low rank is trained beside them.
# * **KL penalty**: all weights are trained, but the loss adds KL(model || model before), measured on plain text.
# * **everything**: all weights are trained, with nothing to hold them. This is the control.
#
# Each is trained for 60 steps at the same learning rate.
#
# Predict: which of them learn the style, and which keep the capitals?
with_style = encode_examples(own, template, BLOCK)[0]
texts = np.array([ids for ids, _ in plain])


def near_reference(model: Any, batch: Any) -> Any:
    """The SFT loss plus the KL divergence from the model before, on random pieces of plain text."""
    total, count, metrics = sft_loss(model, batch)
    some = rng.choice(texts, 8)
    with no_grad():
        before = dpo(some)
    return total + count * exact_kl(model(some), before).mean(), count, metrics


free, held = copy.deepcopy(dpo), copy.deepcopy(dpo)
tune(free, with_style, collate, sft_loss, 60, 3e-3)
tune(held, with_style, collate, near_reference, 60, 3e-3)
low_rank = copy.deepcopy(dpo)
apply_lora(low_rank, LoRAConfig(r=8, alpha=16, target_modules="all-linear"))
tune(low_rank, with_style, collate, sft_loss, 60, 3e-3)
folder = tempfile.TemporaryDirectory()
save_adapter(low_rank, f"{folder.name}/adapter")
merge_lora(low_rank)

# %%
spectrum = {"frozen": dpo, "LoRA": low_rank, "KL penalty": held, "everything": free}
change = {name: measure(name, model) for name, model in spectrum.items()}
for name, model in spectrum.items():
    new, old = (np.concatenate([p.data.ravel() for p in m.parameters()]) for m in (model, dpo))
    change[name] |= {"moved": float(np.linalg.norm(new - old) / np.linalg.norm(old))}
    print(f"  {name:12} the weights move by {change[name]['moved']:6.1%}")
assert change["frozen"]["moved"] == 0 < change["LoRA"]["moved"] < change["everything"]["moved"]
assert all(change[n]["text loss"] < change["everything"]["text loss"] - 0.3 for n in ("frozen", "LoRA", "KL penalty"))
assert change["frozen"]["in style"] < 0.1 and min(change[n]["in style"] for n in spectrum if n != "frozen") > 0.5

# %% [markdown]
# Answer: the frozen model keeps everything and learns nothing. The other three learn the style. Free weights forget the
# language most; the adapter forgets less, the KL penalty hardly anything. That is the spectrum **frozen backbone -> KL
# penalty -> LoRA**: a hard limit, a soft one, and a narrow way. It is not a line: with the KL penalty the weights may
# move far, as long as the predictions stay. **Every adaptation method answers the same question: how much should I
# change?** They differ in what they hold: the weights, their rank, or the predictions.
#
# ## The stages as files on a model hub
#
# In "Llama 3 70B Instruct, 4-bit GPTQ", Llama 3 70B is the base model, Instruct stands for SFT and alignment, and 4-bit
# GPTQ for the quantization. Each stage leaves one kind of file; `load_model` in gpt/training/loading.py reads them all.
#
# | what | as in the Llama 3 family | left by | here |
# |---|---|---|---|
# | base | Meta-Llama-3-8B | pretraining | scripts/train.py |
# | instruct | Meta-Llama-3-8B-Instruct | SFT, rejection sampling, PPO, DPO | scripts/sft.py to scripts/dpo.py |
# | adapter | a LoRA for one of these | LoRA | scripts/lora.py |
# | quantized | ...-Instruct-GPTQ, -AWQ, -bnb-4bit | quantization | scripts/quantize.py |
#
# Predict: which of these files cannot answer alone?

# %%
dpo.save_pretrained(f"{folder.name}/instruct", tokenizer)
loaded, _ = load_model(f"{folder.name}/instruct")
add_adapter_to(loaded, tokenizer, f"{folder.name}/adapter")
measure("instruct + adapter, loaded", loaded)
assert np.allclose(loaded(pieces[:1]).data, low_rank(pieces[:1]).data, atol=1e-3)  # the merged model

# %% [markdown]
# Answer: the adapter. It holds only A and B of each layer, and needs the model that it was trained on: here it is read
# into the instruct model. Then it computes what the merged model computed. The instruct model is as large as the base,
# because SFT and DPO change all weights and add none, and the adapter a tenth of it.
#
# ## What next
#
# - try: `python scripts/pipeline.py`: the same stages with a larger model; then scripts/chat.py. Expect: about eight
#   minutes, and a model most of whose answers are also right.
# - exercise: `python scripts/exercise.py start loss_masking`, dpo, lora, nf4
# - read: scripts/pipeline.py, a stage a command; gpt/training/loading.py
# - break: set `weight` to 0 in `prefer`, as in Rafailov et al. 2023. Expect: the assertion on `rows["DPO"]` stops the
#   lesson, because no reply ends after the thanks.
# - lesson: `python scripts/lesson.py 446`
