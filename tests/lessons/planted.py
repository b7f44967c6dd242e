"""Mistakes in the library that the lesson about it must notice: it stops with an assertion of its own.

    python -m tests.lessons.planted [LESSON ...]   all lessons, or those named (421), with each of their mistakes
    python -m tests.lessons.planted --seed 7       with other random numbers

Each mistake is a file and an edit: what stands there once, and what is written instead. The first of a lesson is the
one that it notices soonest, and the one that the tests try. Nothing on the disk is changed.
"""

import argparse
import contextlib
import importlib.machinery
import io
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LESSONS = ROOT / "scripts" / "course" / "lessons"


class Planted(NamedTuple):
    lesson: str  # its number
    path: str
    old: str
    new: str

    def text(self):
        """The file with the mistake. Raises ValueError unless what it replaces stands there once."""
        text = (ROOT / self.path).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path}: {self.old!r} stands there {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)


# fmt: off
MISTAKES = [Planted(*row) for row in [
    ("00", "minigrad/functional/elementwise.py", "dout * ctx.x, ctx.y_shape)", "dout, ctx.y_shape)"),
    ("00", "minigrad/functional/reduction.py", "restore_dims(dout / ctx.n, ctx.dims", "restore_dims(dout, ctx.dims"),
    ("00", "minigrad/autograd.py", "uses[source] += 1", "uses[source] = 1"),
    ("00", "minigrad/autograd.py", "sums[edge] + gradient if edge in sums else gradient", "gradient"),
    ("01", "minigrad/functional/activation.py", "exps / sum_over(exps, dim, keepdims=True)", "exps / exps.sum()"),
    ("01", "minigrad/optim.py", 'velocity *= group["momentum"]', 'velocity *= 1 - group["momentum"]'),
    ("01", "minigrad/optim.py", "m_hat = m / (1 - beta1**t)", "m_hat = m"),
    ("01", "minigrad/optim.py", '1 - group["lr"] * group["weight_decay"]', '1 - group["weight_decay"]'),
    ("411", "minigrad/functional/loss.py", "ctx.targets] -= dlosses", "ctx.targets] += dlosses"),
    ("411", "minigrad/functional/indexing.py", "ctx.ids.reshape(-1), dout", "ctx.ids.reshape(-1)[::-1], dout"),
    ("411", "gpt/model/generation.py", "(kept - kept.max()) / self.temp", "(kept - kept.max()) * self.temp"),
    ("411", "gpt/model/generation.py", "- probs[order]  # the sum over more likely tokens, 0", "# 0"),
    ("411", "gpt/training/evaluation.py", "math.exp(loss) if", "2**loss if"),
    ("412", "gpt/tokenizer/bpe_training.py", "changes[pair] += counts[index]", "changes[pair] += 1"),
    ("412", "gpt/tokenizer/bpe.py", "(merged[-1], token) == pair", "(token, merged[-1]) == pair"),
    ("412", "gpt/tokenizer/bpe.py", "first = min(learned", "first = max(learned"),
    ("412", "gpt/tokenizer/pre_tokenization.py", "update(split_words(part))", "update(set(split_words(part)))"),
    ("413", "minigrad/functional/indexing.py", "ctx.ids.reshape(-1), dout", "0 * ctx.ids.reshape(-1), dout"),
    ("413", "gpt/model/positions.py", "math.log(10000.0)", "math.log(1000.0)"),
    ("413", "gpt/model/gpt2.py", "self.wte(ids) + self.wpe(positions)", "self.wte(ids)"),
    ("413", "gpt/model/gpt2.py", "self.lm_head.weight = self.transformer.wte.weight", "pass"),
    ("414", "minigrad/functional/linalg.py", "dweight = dout.T @ as_rows(ctx.x)", "dweight = -dout.T @ as_rows(ctx.x)"),
    ("414", "minigrad/functional/linalg.py", "dx = (dout @ ctx.weight)", "dx = (0 * dout @ ctx.weight)"),
    ("414", "minigrad/functional/activation.py", "dout * (1 - ctx.out * ctx.out)", "dout * (1 - ctx.out)"),
    ("414", "minigrad/functional/indexing.py", "ctx.ids.reshape(-1), dout", "0 * ctx.ids.reshape(-1), dout"),
    ("421", "minigrad/functional/activation.py", "exps / sum_over(exps, dim, keepdims=True)", "exps / exps.sum()"),
    ("421", "minigrad/functional/activation.py", "(ctx.out * (dout - dot),)", "(dout - dot,)"),
    ("421", "minigrad/functional/linalg.py", "dout @ ctx.y.swapaxes(-1, -2)", "0 * dout @ ctx.y.swapaxes(-1, -2)"),
    ("421", "minigrad/functional/linalg.py", "dweight = dout.T @ as_rows(ctx.x)", "dweight = -dout.T @ as_rows(ctx.x)"),
    ("422", "minigrad/functional/attention.py", "scale = 1 / math.sqrt(max(", "scale = math.sqrt(max("),
    ("422", "minigrad/functional/attention.py", "scale = 1 / math.sqrt(max(query", "scale = 1 / (max(query"),
    ("422", "minigrad/functional/attention.py", "max(query.shape[-1], 1)", "max(query.shape[-2], 1)"),
    ("422", "minigrad/functional/activation.py", "return (ctx.out * (dout - dot),)", "return (ctx.out * dout,)"),
    ("423", "minigrad/functional/attention.py", "scale = 1 / math.sqrt(max(", "scale = math.sqrt(max("),
    ("423", "minigrad/functional/attention.py", "where(mask, scores, -math.inf)", "where(mask, -math.inf, scores)"),
    ("423", "minigrad/functional/attention.py", "swapaxes(-1, -2) @ dout  #", "swapaxes(-1, -2) @ dout * ctx.scale  #"),
    ("423", "gpt/model/gpt2.py", "x = x + self.attn(self.ln_1(x)", "x = self.attn(self.ln_1(x)"),
    ("424", "minigrad/functional/attention.py", "x.transpose(0, 2, 1, 3).reshape(B, T", "x.reshape(B, T"),
    ("424", "minigrad/functional/attention.py", "return tuple(split)", "return tuple(split[::-1])"),
    ("424", "gpt/model/gpt2.py", "self.resid_dropout(self.c_proj(out))", "self.resid_dropout(out)"),
    ("424", "minigrad/functional/attention.py", "(B, T, H, D).transpose(0, 2, 1, 3)", "(B, H, T, D)"),
    ("425", "minigrad/functional/normalization.py", "centered = x - x.mean(axis=axes, keepdims=True)", "centered = x"),
    ("425", "minigrad/functional/normalization.py", "ctx.std = xp.sqrt(variance + eps)", "ctx.std = variance + eps"),
    ("425", "minigrad/functional/activation.py", "u = math.sqrt(2 / math.pi) * (x", "u = (x"),
    ("425", "gpt/model/gpt2.py", "return x + self.mlp(self.ln_2(x))", "return self.ln_2(x + self.mlp(x))"),
    ("425", "minigrad/functional/normalization.py", "(dnormalized - mean - ", "(dnormalized - "),
    ("425", "minigrad/functional/normalization.py", " - mean - ctx.normalized * projection)", " - mean)"),
    ("425", "minigrad/functional/activation.py", "(ctx.cdf + x * density)", "ctx.cdf"),
    ("425", "minigrad/functional/activation.py", "(1 - ctx.tanh * ctx.tanh) * du)", "(1 - ctx.tanh * ctx.tanh))"),
    ("426", "minigrad/functional/attention.py", "xp.tri(queries, keys, past,", "xp.tri(queries, keys, past + 1,"),
    ("426", "minigrad/functional/attention.py", "shape[-2:]), scores, -math.inf)", "shape[-2:]), scores, 0.0)"),
    ("426", "gpt/model/gpt2.py", "self.drop(self.wte(ids) + self.wpe(positions))", "self.drop(self.wte(ids))"),
    ("426", "gpt/model/gpt2.py", "return self.ln_f(x)", "return x"),
    ("431", "gpt/model_config.py", '"attention": L * (4 * C * C + 4 * C)', '"attention": L * 4 * C * C'),
    ("431", "gpt/model/language_model.py", "std=INIT_STD / math.sqrt(2 * model.config.n_layer)", "std=INIT_STD"),
    ("431", "gpt/model/language_model.py", "math.sqrt(2 * model.config.n_layer)", "math.sqrt(model.config.n_layer)"),
    ("431", "gpt/model/gpt2.py", "if config.tied:", "if not config.tied:"),
    ("432", "gpt/training/batches.py", "return ids[:, :-1], ids[:, 1:]", "return ids[:, :-1], ids[:, :-1]"),
    ("432", "minigrad/optim.py", "return (step + 1) / (self.warmup_steps + 1)", "return 1.0"),
    ("432", "minigrad/optim.py", "math.cos(math.pi * progress)", "math.cos(progress)"),
    ("432", "minigrad/optim.py", "xp.asarray(xp.sqrt(add_squares(arrays)))", "xp.asarray(add_squares(arrays))"),
    ("433", "minigrad/precision.py", "(bits + 0x7FFF + last_kept)", "(bits)"),
    ("433", "gpt/model/positions.py", "return xp.arange(past, past + T), mask", "return xp.arange(T), mask"),
    ("433", "gpt/model/speculation.py", "token != guesses[i] or token in stop_tokens", "token in stop_tokens"),
    ("433", "gpt/training/training_step.py", "p.grad *= 1 / max(count, 1)", "p.grad *= 1"),
    ("433", "gpt/training/forked_team.py", "work.index(min(work))", "i % processes"),
    ("434", "gpt/weights/safetensors_file.py", "copy=False).reshape(shape)", 'copy=False).reshape(shape, order="F")'),
    ("434", "gpt/weights/gpt2_huggingface.py", "c_proj.weight  C,C    transposed", "c_proj.weight  C,C"),
    ("434", "gpt/weights/gpt2_huggingface.py", "gelu_new          gelu_tanh", "gelu_new          gelu"),
    ("434", "gpt/model/gpt2.py", "return self.ln_f(x)  # (B, T, C)", "return x"),
    ("435", "gpt/training/batches.py", "return ids[:, :-1], ids[:, 1:]", "return ids[:, 1:], ids[:, 1:]"),
    ("435", "minigrad/functional/loss.py", "ctx.targets] -= dlosses", "ctx.targets] += dlosses"),
    ("435", "gpt/training/training_loop.py", "        model.zero_grad()\n", ""),
    ("435", "gpt/training/evaluation.py", "float(-np.log(unigram[validation])", "float(-np.log2(unigram[validation])"),
    ("441", "finetune/objectives/model_with_head.py", "xp.asarray(lengths) - 1]", "0 * xp.asarray(lengths)]"),
    ("441", "finetune/data/datasets.py", "row[: len(sequence)] = sequence", "row[-len(sequence) :] = sequence"),
    ("441", "finetune/objectives/model_with_head.py", "requires_grad_(trained_blocks is None)", "requires_grad_(True)"),
    ("441", "finetune/evaluation/confusion.py", "(counts, (np.asarray(true)", "(counts, (np.asarray(predicted)"),
    ("442", "finetune/data/chat_template.py", "((text[end:start], False), (text", "((text[end:start], True), (text"),
    ("442", "finetune/data/chat_template.py", "before + said + space + rest[0])", "before + said + space)"),
    ("442", "finetune/objectives/sft.py", "zip(ids[1:], mask[1:])", "zip(ids[1:], mask)"),
    ("442", "finetune/objectives/sft.py", "pad_right(wanted, fill=IGNORE)", "pad_right(wanted, fill=0)"),
    ("442", "finetune/data/chat_template.py", "data[:known].mean(axis=0)", "data[:known].sum(axis=0)"),
    ("443", "finetune/objectives/reward.py", "logsigmoid(chosen - rejected)", "logsigmoid(rejected - chosen)"),
    ("443", "finetune/objectives/ppo.py", "next_values = values[:, t + 1] if", "next_values = values[:, t - 1] if"),
    ("443", "finetune/objectives/ppo.py", "np.where(mask, -kl_coef * kl, 0.0)", "np.where(mask, kl_coef * kl, 0.0)"),
    ("443", "finetune/objectives/ppo.py", "F.clip(ratio, 1 - clip, 1 +", "F.clip(ratio, 0, 1 +"),
    ("443", "finetune/objectives/ppo.py", "F.maximum((values - target)", "F.minimum((values - target)"),
    ("443", "finetune/objectives/ppo.py", "policy + vf_coef * value", "policy - vf_coef * value"),
    ("443b", "finetune/objectives/dpo.py", "chosen) - (policy_rejected", "chosen) + (policy_rejected"),
    ("443b", "finetune/objectives/dpo.py", "return -F.logsigmoid(beta * h)", "return -F.logsigmoid(h / beta)"),
    ("443b", "finetune/objectives/dpo.py", "tensor_like(batch.reference,", "tensor_like(0 * batch.reference,"),
    ("443b", "finetune/objectives/dpo.py", "logprobs, logprobs[len(part) :])", "logprobs[len(part) :], logprobs)"),
    ("444", "finetune/adapters/lora.py", "r * (in_features + out_features)", "r * in_features * out_features"),
    ("444", "finetune/adapters/lora.py", "return self.alpha / (math", "return 1 / self.alpha * (math"),
    ("444", "finetune/quantization/nf4.py", "OUTERMOST, 9)[1:]", "OUTERMOST, 9)[:-1]"),
    ("444", "finetune/quantization/rounding.py", "max(axis=-1) /", "max() * np.ones(values.shape[:-1]) /"),
    ("444", "finetune/quantization/gptq.py", "left[:, q + 1 :] -= np.outer", "left[:, q + 1 :] += np.outer"),
    ("444", "finetune/quantization/gptq.py", "(left[:, q] - rounded) / U[q, q]", "left[:, q] - rounded"),
    ("444", "finetune/quantization/rounding.py", "np.abs(values).max(axis=-1) /", "values.max(axis=-1) /"),
    ("444", "finetune/quantization/awq.py", "dequantize() / scales", "dequantize()"),
    ("444", "finetune/quantization/awq.py", "(divided[-size:].T / scales)", "(divided[-size:].T * scales)"),
    ("444", "gpt/weights/gguf_file.py", "numbers += minimums", "numbers -= minimums"),
    ("445", "finetune/objectives/sft.py", "id if learn else IGNORE", "IGNORE if learn else id"),
    ("445", "finetune/objectives/dpo.py", "return -F.logsigmoid(beta * h)", "return -F.logsigmoid(-beta * h)"),
    ("445", "finetune/adapters/lora.py", "(self.whole_B().data * self.scaling)", "self.whole_B().data"),
    ("445", "finetune/objectives/logprobs.py", "log_ratio = log_p - log_q", "log_ratio = log_q - log_p"),
    ("446", "finetune/built_in/chains.py", "lambda a, b: (a - b) % 10", "lambda a, b: (b - a) % 10"),
    ("446", "finetune/objectives/grpo.py", "rewards - rewards.mean(axis=1, keepdims=True)", "rewards - rewards.mean()"),
    ("446", "finetune/objectives/grpo.py", "return better * G / (G - 1)", "return better * (G - 1) / G"),
    ("446", "finetune/objectives/grpo.py", "return 1 / lengths", "return 0 * lengths + 1"),
    ("446", "finetune/stages/grpo.py", "advantages[rows][answer_of]", "advantages[answer_of]"),
    ("446", "finetune/objectives/grpo.py", '"dapo": (0.2, 0.28)', '"dapo": (0.28, 0.2)'),
    ("446", "finetune/objectives/logprobs.py", "F.exp(-log_ratio) - 1 + log_ratio", "F.exp(log_ratio) - 1 - log_ratio"),
    ("446", "finetune/objectives/grpo.py", "loss + beta * estimated_kl", "loss - beta * estimated_kl"),
    ("447", "finetune/objectives/distillation.py", "exact_kl(s, t) if reverse", "exact_kl(s, t) if not reverse"),
    ("447", "finetune/objectives/distillation.py", "* temperature**2", "* temperature"),
    ("447", "finetune/objectives/distillation.py", "t, s = teacher / temperature", "t, s = teacher"),
    ("447", "finetune/objectives/distillation.py", "teacher(ids)[counts]", "teacher(ids[:, ::-1])[counts]"),
    ("447", "finetune/objectives/distillation.py", "teacher_logits, temperature", "teacher_logits, 1.0"),
    ("447", "finetune/objectives/distillation.py", "counts = targets != IGNORE", "counts = targets == targets"),
    ("447", "finetune/objectives/distillation.py", "logits, temperature, reverse).sum()", "logits, temperature).sum()"),
    ("448", "finetune/evaluation/multiple_choice.py", "].sum().item()", "].mean().item()"),
    ("448", "finetune/evaluation/multiple_choice.py", "pad_right(texts,", "pad_right([t[::-1] for t in texts],"),
    ("448", "finetune/evaluation/multiple_choice.py", "hidden[texts.index(tuple(ids[:-1])), ", "hidden[0, "),
    ("448", "finetune/evaluation/multiple_choice.py", "math.sqrt(p * (1 - p) / max", "math.sqrt(p / max"),
    ("448", "finetune/evaluation/multiple_choice.py", "(LETTERS[: len(texts)] if letters else texts)", "texts"),
    ("448", "finetune/evaluation/multiple_choice.py", "[len(choice) for", "[len(choice.split()) for"),
    ("448", "finetune/evaluation/multiple_choice.py", "others = solved[:i] + solved[i + 1 :]", "others = solved"),
    ("448", "finetune/evaluation/multiple_choice.py", "np.array(ids[-n:])", "np.array(ids[-n - 1 : -1])"),
    ("451", "gpt/model/llama.py", "(-xp.arange(0, head_size, 2) / head_size)", "(0 * xp.arange(0, head_size, 2))"),
    ("451", "minigrad/functional/normalization.py", "/ ctx.rms  # x̂", "/ ctx.rms**2  # x̂"),
    ("451", "minigrad/functional/attention.py", "unsqueeze(k, -3)", "unsqueeze(k, -4)"),
    ("451", "minigrad/functional/activation.py", "return gate * ctx.sigmoid * up", "return ctx.sigmoid * up"),
    ("451", "gpt/model/llama.py", "F.swiglu(self.gate_proj(x), self.up_proj(x))", "F.silu(self.gate_proj(x))"),
    ("452", "gpt/interpretability/induction.py", "follows[:, :, 1:] =", "follows[:, :, :-1] ="),
    ("452", "gpt/interpretability/heads.py", "mask = np.repeat(keep, ", "mask = np.tile(keep, "),
    ("452", "gpt/interpretability/lens.py", "model.final_norm(Tensor(stream))", "Tensor(stream)"),
    ("452", "gpt/interpretability/patching.py", "return (effects - corrupted_score) /", "return effects /"),
    ("452", "gpt/interpretability/induction.py", "/ occurred.sum()", "/ occurred.size"),
    ("453", "minigrad/muon.py", "lr * 0.2 * math.sqrt(max(p.shape)) * direction", "lr * 0.2 * direction"),
    ("453", "minigrad/muon.py", "c * gram @ gram) @ x", "c * gram) @ x"),
    ("453", "minigrad/muon.py", "COEFFICIENTS = 3.4445, -4.7750, 2.0315", "COEFFICIENTS = 15 / 8, -10 / 8, 3 / 8"),
    ("453", "minigrad/muon.py", 'p.data *= 1 - lr * group["weight_decay"]', 'p.data *= 1 - group["weight_decay"]'),
    ("453", "minigrad/muon.py", "newton_schulz(beta * m + (1 - beta) * grad)", "newton_schulz(grad)"),
    ("453", "minigrad/muon.py", "m += (1 - beta) * grad", "m += grad"),
    ("454", "gpt/model/moe.py", "F.softmax(best.values, -1)", "F.sigmoid(best.values)"),
    ("454", "gpt/model/moe.py", "done[xp.argsort(order)]", "done[order]"),
    ("454", "gpt/model/moe.py", "return loss + weight * count", "return loss - weight * count"),
    ("454", "gpt/model/moe.py", "self.balance = (F.softmax(logits, -1)", "self.balance = (F.softmax(-logits, -1)"),
    ("454", "gpt/model/moe.py", ".sum() * len(self.experts)", ".sum()"),
    ("455", "minigrad/optim.py", "0.5 * (1 + math.cos(", "0.5 * (1 - math.cos("),
    ("455", "gpt/training/batches.py", "rng.permutation(", "rng.integers(self.per_epoch, size="),
    ("455", "minigrad/muon.py", "newton_schulz(beta * m + (1 - beta) * grad)", "beta * m + (1 - beta) * grad"),
    ("455", "gpt/training/batches.py", "default_rng([self.seed, epoch])", "default_rng([self.seed])"),
    ("456", "gpt/accounting.py", "config.n_layer * (latent + rope)", "config.n_layer * latent"),
    ("456", "gpt/model/latent_attention.py", "@ W_UV.transpose(-1, -2)", "@ W_UK.transpose(-1, -2)"),
    ("456", "gpt/model/latent_attention.py", "self.latent_norm(self.latent_proj(x))", "self.latent_proj(x)"),
    ("456", "gpt/model/latent_attention.py", "(x).unsqueeze(1), cos, sin)", "(x).unsqueeze(1), cos, -sin)"),
    ("456", "gpt/model/latent_attention.py", "self.n_head), cos, sin)", "self.n_head), sin, cos)"),
    ("456", "gpt/model/latent_attention.py", "slice(None, None, D // rope)", "slice(rope // 2)"),
    ("456", "gpt/model/latent_attention.py", "self.scale = (D + rope) ** -0.5", "self.scale = D**-0.5"),
    ("456", "gpt/model/sliding_window.py", "(key > query - window)", "(key >= query - window)"),
    ("456", "gpt/model/sliding_window.py", "(key <= query) & ((key >", "((key >"),
    ("456", "gpt/model/sliding_window.py", " | (key < sinks)", " | (key < 0)"),
    ("456", "gpt/model/sliding_window.py", "np.array([-gone])", "np.array([gone])"),
    ("456", "gpt/model/sliding_window.py", "self.sinks = sinks", "self.sinks = 0"),
    ("456", "gpt/model/sliding_window.py", "self.kept = sinks + window - 1", "self.kept = window - 1"),
    ("456", "gpt/model/sliding_window.py", "self.values[layer][:, :, new] =", "_ ="),
    ("456", "gpt/model/latent_attention.py", "keys, c, mask, scale=self.scale)", "keys, c, mask)"),
    ("457", "gpt/model/linear_attention.py", "u_t @ k_t.transpose(-2, -1)", "k_t @ u_t.transpose(-2, -1)"),
    ("457", "gpt/model/linear_attention.py", "(u_t - S @ k_t)", "u_t"),
    ("457", "gpt/model/linear_attention.py", "F.rms_norm(y, D) / D**0.5 for", "F.rms_norm(y, D) for"),
    ("457", "gpt/model/linear_attention.py", "(self.alpha(x), H) + 4)", "(self.alpha(x), H))"),
    ("457", "gpt/model/linear_attention.py", '("attention"), start=1)', '("attention"))'),
    ("457", "gpt/model/linear_attention.py", "((last - g).exp() * U)", "U"),
    ("457", "gpt/model/linear_attention.py", " + sum(state.nbytes for state in self.states.values())", ""),
    ("458", "gpt/model/generation.py", "probs >= self.min_p * probs.max()", "probs >= self.min_p"),
    ("458", "gpt/model/speculation.py", "if number * q[guess] < p[guess]", "if number < p[guess]"),
    ("458", "gpt/model/speculation.py", "missing = np.maximum(p - q, 0)", "missing = p"),
    ("458", "gpt/model/speculation.py", "probs = after_guess(p, qs[i]", "probs = after_guess(qs[i], qs[i]"),
    ("458", "gpt/model/speculation.py", "token = int(rng.choice(len(probs), p=probs))", "token = guesses[i]"),
    ("458", "gpt/model/speculation.py", "= sampling.probabilities(logits[i],", "= sampling.probabilities(logits[0],"),
    ("458", "gpt/model/constrained_decoding.py", "np.where(allowed, logits[: len(allowed)],", "np.where(allowed, 0,"),
    ("458", "gpt/model/constrained_decoding.py", "beginning.fullmatch(text + token) and", "True and"),
    ("458", "gpt/model/constrained_decoding.py", "whole.fullmatch(text) is not None", "True"),
]]
# fmt: on


def plant(mistake):
    """From now on, an import of the file gets it with the mistake."""
    text, original = mistake.text(), importlib.machinery.SourceFileLoader.get_code

    def get_code(loader, name):
        is_meant = Path(loader.path) == ROOT / mistake.path
        return compile(text, loader.path, "exec", dont_inherit=True) if is_meant else original(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code


def run(mistake, seed=0):
    """Run the lesson with the mistake. Returns how it ended, in words, and after how many seconds."""
    start = time.perf_counter()
    plant(mistake)
    (path,) = map(str, LESSONS.glob(f"{mistake.lesson}_*.py"))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.environ["MINIGRAD_CACHE"] = folder  # `train_once` finds no model that learned without the mistake there
        sys.argv = [path, "--out-dir", folder, "--seed", str(seed)]
        try:
            runpy.run_path(path, run_name="__main__")
            said = "MISSED: the lesson ends as if nothing were wrong"
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            is_noticed = isinstance(error, AssertionError) and place.filename == path
            said = f"noticed in line {place.lineno}" if is_noticed else f"MISSED: {type(error).__name__}: {error}"
    return said, time.perf_counter() - start


def processes(count):
    """Runs each of its tasks in a process of its own, `count` at a time: nothing there has been imported before."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), max_tasks_per_child=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lesson", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="how many run at once (default 2)")
    arguments, missed = parser.parse_args(), 0
    asked = [mistake for mistake in MISTAKES if not arguments.lesson or mistake.lesson in arguments.lesson]
    with processes(arguments.processes) as pool:
        for mistake, (said, seconds) in zip(asked, pool.map(run, asked, [arguments.seed] * len(asked))):
            missed += said.startswith("MISSED")
            print(f"{mistake.lesson} {mistake.path}: {mistake.old} -> {mistake.new}\n    {said}, after {seconds:.0f} s")
    return missed > 0


if __name__ == "__main__":
    sys.exit(main())
