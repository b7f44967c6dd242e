"""Typical mistakes, planted in what is right: for each exercise, edits of the library's source, of a completed stub or
of a reference, and a word that the diagnosis must have.

An edit of the library is (old, new, word); `stub(code, word)` completes the stub's last TODO with wrong code.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """Text that is replaced (None: the stub's TODO is completed with `new`), and a word of the diagnosis."""

    old: str | None
    new: str
    word: str


def stub(code, word):
    return Mistake(None, code, word)


def edits(*of_exercise):
    return [edit if isinstance(edit, Mistake) else Mistake(*edit) for edit in of_exercise]


NORM = "dx = (dnormalized - mean - ctx.normalized * projection) / ctx.std"
RMS = "dx = (dnormalized - ctx.normalized * projection) / ctx.rms"
WALK = """
    for node in reversed(order):
        for source, slope in node.inputs:
            source.grad += node.grad * slope
"""
TIED = """
        dhidden = dout @ ctx.weight
        dweight = dout.T @ ctx.hidden
        np.add.at(dweight, ctx.ids, dhidden)
        return None, dweight
"""
CACHE = """
        self.keys, self.values = None, None

    def append(self, keys, values):
        if self.keys is not None:
            keys = np.concatenate([self.keys, keys], axis=2)
            values = np.concatenate([self.values, values], axis=2)
        self.keys, self.values = keys, values
        return keys, values
"""
GRPO = """
    r = rewards
    A = ((r - r.mean(axis=1, keepdims=True)) / (r.std(axis=1, keepdims=True) + 1e-4)).reshape(-1, 1)
    losses = np.where(mask, -np.minimum(ratio * A, np.clip(ratio, 0.8, 1.2) * A), 0)
    return (losses.sum(axis=1) / mask.sum(axis=1)).mean()
"""
DROPOUT = """
        ctx.scale = ((uniform >= p) / (1 - p)).astype(x.dtype)
        return x * ctx.scale

    @staticmethod
    def backward(ctx, dout):
        return dout * ctx.scale, None
"""

MATMUL = """
        dx = dout @ ctx.y.swapaxes(-1, -2)
        dy = ctx.x.swapaxes(-1, -2) @ dout
"""
ABSMAX = """
    scales = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, 1e-30)
    return np.rint(values / scales).astype(np.int8), np.broadcast_to(scales, (len(values), 1))
"""
NF4 = """
    scales = np.abs(values.reshape(-1, block)).max(axis=1)
    scaled = values / np.repeat(np.where(scales, scales, 1), block)
    return np.abs(scaled[:, None] - levels).argmin(axis=1), scales
"""

MISTAKES = {
    "mul": edits(
        ("unbroadcast(dout * ctx.x, ctx.y_shape)", "unbroadcast(-dout * ctx.x, ctx.y_shape)", "sign"),
        ("unbroadcast(dout * ctx.y, ctx.x_shape)", "unbroadcast(dout, ctx.x_shape)", "factor is missing"),
        ("return dx, dy", "return dy, dx", "exchanged"),
        ("unbroadcast(dout * ctx.x, ctx.y_shape)", "unbroadcast(ctx.x, ctx.y_shape)", "dout"),
    ),
    "tanh": edits(
        ("(1 - ctx.out * ctx.out)", "(1 - ctx.out)", "squared"),
        ("dout * (1 - ctx.out * ctx.out)", "1 - ctx.out * ctx.out", "dout"),
        ("dout * (1", "-dout * (1", "sign"),
        ("(1 - ctx.out * ctx.out)", "ctx.out * (1 - ctx.out)", "sigmoid"),
    ),
    "walk": [
        stub(WALK.replace("+=", "="), "overwritten"),
        stub(WALK.replace("reversed(order)", "order"), "order"),
        stub(WALK.replace(" * slope", ""), "slope"),
    ],
    "sum": edits(
        (", ctx.shape),)", ", ctx.shape) * 2,)", "2x too large"),
        ("broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape)",
         "broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape) / len(ctx.shape)", "small"),
        ("return (module_of(dout).broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape),)",
         "return (module_of(dout).ones(ctx.shape),)", "dout"),
        ("return (module_of(dout).broadcast_to(restore_dims(dout, ctx.dims, len(ctx.shape)), ctx.shape),)",
         "return (dout,)", "repeat"),
        ("x.sum(axis=dims", "x.mean(axis=dims", "mean"),
    ),
    "mean": edits(
        ("dout / ctx.n", "dout", "not divided by `n`"),
        ("dout / ctx.n", "dout / ctx.shape[-1]", "too large"),
        ("dout / ctx.n", "dout * ctx.n", "must be divided"),
        ("keepdims=keepdim) / ctx.n", "keepdims=keepdim)", "sum"),
    ),
    "unbroadcast": edits(
        ("tuple(range(added)) + stretched", "tuple(range(added))", "Error"),
        ("tuple(range(added)) + stretched, keepdims=True).reshape(shape)", "tuple(range(added)))", "stretched"),
        ("dout.sum(", "dout.mean(", "mean"),
    ),
    "matmul": edits(
        ("dout @ ctx.y.swapaxes(-1, -2)", "dout @ ctx.y", "Error"),
        stub(MATMUL.replace("ctx.x.swapaxes(-1, -2) @ dout", "dout.swapaxes(-1, -2) @ ctx.x"), "transposed"),
        ("return dx, dy", "return dx, -dy", "sign"),
        ("x.swapaxes(-1, -2) @ dout", "x.swapaxes(-1, -2) @ (dout / dout.shape[-1])", "small"),
        ("return dx, dy", "return dx, None", "no gradient"),
    ),
    "relu": edits(
        ("where(ctx.out <= 0, 0, dout)", "where(ctx.out < 0, 0, dout)", "passes everywhere"),
        ("where(ctx.out <= 0, 0, dout)", "where(ctx.out <= 0, dout, 0)", "wrong way round"),
        ("where(ctx.out <= 0, 0, dout)", "where(dout <= 0, 0, dout)", "on dout"),
        ("where(ctx.out <= 0, 0, dout)", "where(ctx.out <= 0, 0, dout) * ctx.out", "slope is 1"),
        ("maximum(x, 0)", "abs(x)", "|x|"),
    ),
    "gelu": edits(
        ("(1 - ctx.tanh * ctx.tanh) * du", "(1 - ctx.tanh * ctx.tanh)", "inner derivative"),
        ("(1 - ctx.tanh * ctx.tanh)", "(1 - ctx.tanh)", "square"),
        ("(1 + 3 * 0.044715 * x * x)", "(1 + 0.044715 * x * x)", "factor 3"),
        ("0.5 * (1 + ctx.tanh) + 0.5 * x", "0.5 * x", "first half"),
        ("0.5 * (1 + ctx.tanh) + 0.5 * x * (1 - ctx.tanh * ctx.tanh) * du", "0.5 * (1 + ctx.tanh)", "second half"),
    ),
    "softmax": edits(
        ("ctx.out * (dout - dot)", "ctx.out * (1 - ctx.out) * dout", "diagonal"),
        ("dot = (dout * ctx.out).sum", "dot = dout.sum", "multiplied by out"),
        ("dot = (dout * ctx.out).sum", "dot = (dout * ctx.out).mean", "not a mean"),
        (".sum(axis=ctx.dim, keepdims=True)\n        return", ".sum()\n        return", "one number per row"),
        ("x - largest", "x", "overflow"),
        ("ctx.out * (dout - dot)", "dout - dot", "factor out"),
    ),
    "log_softmax": edits(
        ("dout - module_of(dout).exp(ctx.out) * dout.sum(axis=ctx.dim, keepdims=True)",
         "dout - module_of(dout).exp(ctx.out) * dout", "summed"),
        (".exp(ctx.out) * dout.sum(axis=ctx.dim, keepdims=True)", ".exp(ctx.out)", "row's sum of dout"),
        ("module_of(dout).exp(ctx.out)", "ctx.out", "logarithm"),
        ("shifted = x - x.max(axis=dim, keepdims=True)", "shifted = x", "overflow"),
    ),
    "cross_entropy": edits(
        ("dlogits[ctx.rows, ctx.targets] -= dlosses", "pass", "truth is missing"),
        ("dout / ctx.n", "dout", "divided by n"),
        ("nan_if_0(ctx.kept.sum(dtype=logits.dtype))", "len(targets)", "ignored rows count"),
        ("dlogits[ctx.rows, ctx.targets] -=", "dlogits[ctx.rows, ctx.targets] +=", "subtract"),
        ("else losses.sum() / ctx.n", "else -losses.sum() / ctx.n", "sign"),
    ),
    "embedding": edits(
        ("scatter_add(dweight, ctx.ids.reshape(-1), dout.reshape(ctx.ids.size, ctx.shape[1]))",
         "dweight[ctx.ids] += dout", "overwritten"),
        ("scatter_add(dweight, ctx.ids.reshape(-1), dout.reshape(ctx.ids.size, ctx.shape[1]))",
         "dweight[ctx.ids] = dout", "overwritten"),
        ("scatter_add(dweight, ctx.ids.reshape(-1), dout.reshape(ctx.ids.size, ctx.shape[1]))", "pass", "zeros"),
        ("return None, dweight", "return None, -dweight", "sign"),
    ),
    "layer_norm": edits(
        (NORM, "dx = dnormalized / ctx.std", "two terms"),
        (NORM, "dx = (dnormalized - mean) / ctx.std", "through std is missing"),
        (NORM, "dx = (dnormalized - ctx.normalized * projection) / ctx.std", "through the mean is missing"),
        (NORM, "dx = dnormalized - mean - ctx.normalized * projection", "1 / std"),
        ("dout if ctx.weight is None else dout * ctx.weight", "dout", "weight is missing"),
        ("xp.sqrt(variance + eps)", "xp.sqrt(variance) + eps", "belongs inside"),
        ("dbias = dout.sum(axis=leading)", "dbias = dout.mean(axis=leading)", "`mean` stands"),
        ("dweight = (dout * ctx.normalized).sum(axis=leading)", "dweight = (dout * ctx.normalized)", "sum over"),
    ),
    "rms_norm": edits(
        (RMS, "dx = dnormalized / ctx.rms", "through rms is missing"),
        ("dout if ctx.weight is None else dout * ctx.weight", "dout", "weight is missing"),
        ("(dnormalized * ctx.normalized).mean", "(dnormalized * ctx.normalized).sum", "not a sum"),
        ("(x * x).mean(axis=axes, keepdims=True) + eps)", "(x * x).sum(axis=axes, keepdims=True) + eps)", "length"),
    ),
    "dropout": [
        stub(DROPOUT.replace("(uniform >= p) / (1 - p)", "1.0 * (uniform >= p)"), "scale 1 / (1 - p) is missing"),
        stub(DROPOUT.replace("uniform >= p", "uniform < p"), "wrong way round"),
        stub(DROPOUT.replace("return dout * ctx.scale", "return dout / (1 - 0.3)"), "lacks the mask"),
        stub(DROPOUT.replace("return dout * ctx.scale", "return dout * (ctx.scale > 0)"), "lacks the scale"),
    ],
    "attention": edits(
        ("k.swapaxes(-1, -2) * scale", "k.swapaxes(-1, -2)", "scale is missing"),
        ("dscores @ ctx.k * ctx.scale", "dscores @ ctx.k", "dq lacks the scale"),
        ("ctx.probs * (dprobs - (dprobs * ctx.probs).sum(axis=-1, keepdims=True))",
         "ctx.probs * (1 - ctx.probs) * dprobs", "diagonal"),
        ("ctx.probs * (dprobs - (dprobs * ctx.probs).sum(axis=-1, keepdims=True))", "dprobs", "left out"),
        ("xp.where(mask, scores, -math.inf) if mask.dtype == bool else scores + mask", "scores", "mask is not added"),
    ),
    "causal_mask": edits(
        (", keys - queries)", ")", "last ones"),
        ("keys - queries", "keys - queries - 1", "itself"),
        ("xp.tril", "xp.triu", "wrong way round"),
    ),
    "heads": edits(
        (".transpose(2, 0, 3, 1, 4)  # (P, B, H, T, D)", ".transpose(2, 0, 3, 1, 4)[::-1]", "wrong"),
        ("x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)",
         "x.reshape(B, T, n_head, parts, C // (parts * n_head)).transpose(3, 0, 2, 1, 4)", "exchanged"),
        ("x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)",
         "x.reshape(parts, B, n_head, T, C // (parts * n_head))", "reshape alone"),
        ("x.transpose(0, 2, 1, 3).reshape(B, T, H * D)", "x.reshape(B, T, H * D)", "reshape alone"),
        ("dout.reshape(B, T, H, D).transpose(0, 2, 1, 3)", "dout.reshape(B, H, T, D)", "reshape alone"),
    ),
    "weight_tying": [
        stub(TIED.replace("np.add.at(dweight, ctx.ids, dhidden)", "pass"), "one of the two uses is missing"),
        stub(TIED.replace("dout.T @ ctx.hidden", "np.zeros_like(ctx.weight)"), "one of the two uses is missing"),
        stub(TIED.replace("np.add.at(dweight, ctx.ids, dhidden)", "dweight[ctx.ids] += dhidden"), "repeat"),
        stub(TIED.replace("return None, dweight", "return None, dweight / 2"), "mean"),
    ],
    "sgd": edits(
        ("p.data -= group", "p.data += group", "uphill"),
        ("grad + group[\"weight_decay\"]", "grad - group[\"weight_decay\"]", "sign of `weight_decay * p`"),
        ("velocity += grad", "velocity += (1 - group['momentum']) * grad", "damped"),
        ("else velocity", "else grad", "not the velocity"),
    ),
    "adam": edits(
        ("v / (1 - beta2**t)", "v", "v lacks"),
        ("m / (1 - beta1**t)", "m", "m lacks"),
        ("(1 - beta2) * grad * grad", "(1 - beta2) * abs(grad)", "magnitude of `grad`"),
        ("(xp.sqrt(v_hat) + eps)", "xp.sqrt(v_hat + eps)", "belongs outside"),
        ("p.data -= lr * m_hat", "p.data += lr * m_hat", "uphill"),
    ),
    "adamw": edits(
        ("p.data *= 1 - lr * decay", "grad = grad + decay * p.data", "added to the gradient"),
        ("p.data *= 1 - lr * decay", "p.data *= 1 - decay", "factor lr"),
        ("p.data *= 1 - lr * decay", "pass", "no weight decay"),
    ),
    "newton_schulz": edits(
        ("b * gram + c * gram @ gram", "b * gram - c * gram @ gram", "sign"),
        ("xp.sqrt((matrix * matrix).sum())", "(matrix * matrix).sum()", "root"),
        ("xp.sqrt((matrix * matrix).sum())", "xp.linalg.norm(matrix, 2)", "not by the largest singular value"),
        ("c * gram @ gram", "c * gram", "A"),
    ),
    "induction": edits(
        ("[:, :, 1:] = ids[:, :, None] == ids[:, None, :-1]", "[...] = ids[:, :, None] == ids[:, None, :]", "follows"),
        (" & np.tri(length, dtype=bool)", "", "future"),
        ("np.tri(length, dtype=bool)", "np.tri(length, k=-1, dtype=bool)", "itself"),
    ),
    "ablation": edits(
        ("np.repeat(keep, x.shape[-1] // n_head)", "np.tile(keep, x.shape[-1] // n_head)", "neighboring"),
        ("keep[off] = 0", "keep = 1 - keep; keep[off] = 1", "others"),
        ("return x * Tensor(mask, dtype=x.dtype, device=x.device)",
         "return x * Tensor(mask * n_head / max(1, keep.sum()), dtype=x.dtype, device=x.device)", "not dropout"),
    ),
    "clipping": edits(
        ("xp.minimum(1.0, max_norm", "(max_norm", "scaled up"),
        ("xp.sqrt(switches.kernel_for(sum_of_squares, gradients)(gradients))",
         "switches.kernel_for(sum_of_squares, gradients)(gradients)", "root is missing"),
        ("return total", "return xp.minimum(total, max_norm)", "before scaling"),
    ),
    "warmup_cosine": edits(
        ("(step + 1) / (self.warmup_steps + 1)", "step / self.warmup_steps", "moves nothing"),
        ("math.cos(math.pi * progress)", "math.cos(2 * math.pi * progress)", "half a wave"),
        ("(step - self.warmup_steps) / (self.total_steps - "
         "self.warmup_steps)", "step / self.total_steps", "from step 0"),
        ("    if step >= self.total_steps:\n        return self.min_ratio\n", "", "after `total`"),
    ),
    "bpe_merge": edits(
        ("            i += 2", "            i += 1", "i += 2"),
        ("i + 1 < len(tokens) and tokens[i]", "i + 1 < len(tokens) and not any(len(t) > 1 for t in merged) and "
                                              "tokens[i]", "only the first place"),
        ("tokens[i] == pair[0] and tokens[i + 1] == pair[1]", "False", "nothing is joined"),
        ("while i < len(tokens):", "while i + 1 < len(tokens):", "last token"),
    ),
    "bpe_encode": edits(
        ("first = min(zip", "first = max((p for p in zip(tokens, tokens[1:]) if p in ranks), default=(b'', b''),"
         " key=lambda pair: ranks[pair])\n        min(zip", "learned last"),
        ("first = min(zip(tokens, tokens[1:]), key=lambda pair: ranks.get(pair, len(ranks)))",
         "first = next((pair for pair in zip(tokens, tokens[1:]) if pair in ranks), None)", "first pair in the word"),
        ("tokens = merge(tokens, first)", "return merge(tokens, first)", "after one merge"),
        ("if first not in ranks:", "if True:", "nothing is joined"),
    ),
    "positions": edits(
        ("table[:, 0::2] = np.sin(angle)", "table[:, 0::2] = np.cos(angle)", "sine"),
        ("table[:, 0::2] = np.sin(angle)\n    table[:, 1::2] = np.cos(angle)[:, : size // 2]",
         "table[:] = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)", "sines come first"),
        ("np.arange(length)[:, None]", "np.arange(1, length + 1)[:, None]", "from 1"),
        ("* column / size", "* column / 2 / size", "2i / C"),
    ),
    "sampling": edits(
        ("(scores - best) / self.temperature", "(scores - best) * self.temperature", "divide"),
        ("scores[scores < np.partition(scores, kth)[kth]] = -np.inf", "pass", "top_k"),
        ("return nucleus / nucleus.sum()", "return nucleus", "sum to 1"),
        ("before = np.cumsum(probs[order]) - probs[order]", "before = np.cumsum(probs[order])", "kept, too"),
        ("if self.top_p == 1 else", "if True else", "top_p has no effect"),
    ),
    "kv_cache": [
        stub(CACHE.replace("return keys, values", "return values, keys"), "exchanged"),
        stub(CACHE.replace("axis=2", "axis=1"), "time is axis 2"),
        stub(CACHE.replace("[self.keys, keys]", "[keys, self.keys]").replace("[self.values, values]",
             "[values, self.values]"), "must come before"),
        stub(CACHE.replace("if self.keys is not None:", "if False:"), "only the new"),
    ],
    "loss_masking": edits(
        ("zip(ids[1:], learned[1:])", "zip(ids, learned[1:])", "not shifted"),
        ("zip(ids[1:], learned[1:])", "zip(ids[1:], learned)", "mask is not shifted"),
        ("id if learn else IGNORE", "id", "questions"),
        ("fill=IGNORE", "fill=0", "padded with 0"),
    ),
    "bradley_terry": edits(
        ("chosen - rejected", "rejected - chosen", "wrong way round"),
        ("-F.logsigmoid", "F.logsigmoid", "sign"),
        ("-F.logsigmoid(chosen - rejected)", "F.sigmoid(rejected - chosen)", "logarithm"),
        ("-F.logsigmoid(chosen - rejected)", "-F.log(1 / (1 + F.exp(rejected - chosen)))", "overflow"),
    ),
    "dpo": edits(
        ("return -F.logsigmoid(beta * h)", "return -F.logsigmoid(h)", "beta is missing"),
        ("(policy_rejected - reference_rejected)", "policy_rejected + reference_chosen", "reference"),
        ("return -F.logsigmoid(beta * h)", "return F.logsigmoid(beta * h)", "sign"),
        ("return -F.logsigmoid(beta * h)", "return -F.logsigmoid(-beta * h)", "exchanged"),
    ),
    "ppo_clip": edits(
        ("-F.minimum", "-F.maximum", "min"),
        ("-F.minimum", "F.minimum", "sign"),
        ("clipped * advantage", "ratio * advantage", "clipping is missing"),
        ("-F.minimum(ratio * advantage, clipped * advantage)", "-(clipped * advantage)", "hides harm"),
    ),
    "gae": edits(
        ("delta + gamma * lam * following", "delta + gamma * following", "lam is missing"),
        ("delta + gamma * lam * following", "delta", "only delta"),
        ("reversed(range(values.shape[1]))", "range(values.shape[1])", "forwards"),
        ("+ gamma * next_values - values", "- values", "next value"),
        ("advantages + values", "advantages + rewards", "returns"),
    ),
    "grpo": edits(
        stub(GRPO.replace("axis=1, keepdims=True", ""), "within each group"),
        ("return 1 / lengths", "return np.full(len(lengths), 1 / lengths.mean())", "count the same"),
        ("better / (rewards.std(axis=1, keepdims=True) + 1e-4)", "better", "std is missing"),
    ),
    "lora": edits(
        ("hidden * self.config.scaling", "hidden", "scaling is missing"),
        ("self.base(x) + ", "", "frozen layer"),
        (" * self.config.scaling) @", ") @", "scaling is missing in the merge"),
    ),
    "absmax": [
        stub(ABSMAX.replace("np.rint", "np.trunc"), "cut off"),
        stub(ABSMAX.replace("np.rint", "np.floor"), "rounded down"),
        stub(ABSMAX.replace("np.abs(values)", "values"), "magnitude"),
        stub(ABSMAX.replace("axis=1", "axis=None"), "whole matrix"),
    ],
    "nf4": [
        stub(NF4.replace("np.abs(scaled[:, None] - levels).argmin(axis=1)", "np.clip(np.searchsorted(levels, "
        "scaled, side='right') - 1, 0, 15)"), "below"),
        stub(NF4.replace("levels)", "np.linspace(-1, 1, 16))"), "equally spaced"),
        stub(NF4.replace("np.abs(values.reshape(-1, block))", "values.reshape(-1, block)"), "magnitude"),
        stub(NF4.replace("scaled = values / np.repeat(np.where(scales, scales, 1), "
                         "block)", "scaled = values"), "not scaled"),
    ],
    "online_softmax": edits(
        ("running_sum = running_sum * shrink + tile_sum", "running_sum = running_sum + tile_sum", "sum is not shrunk"),
        ("weighted = weighted * shrink + tile_out", "weighted = weighted + tile_out", "output is not shrunk"),
        ("running_sum = running_sum * shrink + tile_sum", "running_sum = tile_sum", "last tile"),
        ("np.exp(running_max - safe_max)", "np.exp(safe_max - running_max)", "wrong way round"),
    ),
    "softplus": edits(
        ("np.logaddexp(0, x)", "np.log(1 + np.exp(x))", "overflow"),
        ("0.5 * (1 + np.tanh(ctx.x / 2))", "np.exp(ctx.x) / (1 + np.exp(ctx.x))", "overflow"),
        ("(1 + np.tanh", "(1 - np.tanh", "grow with x"),
        ("dout * 0.5", "0.5", "dout"),
    ),
    "l2_normalize": edits(
        ("(dout - ctx.out * dot) / ctx.length", "dout / ctx.length", "through_length"),
        ("(dout - ctx.out * dot) / ctx.length", "(dout + ctx.out * dot) / ctx.length", "sign of `through_length`"),
        ("(dout - ctx.out * dot) / ctx.length", "dout - ctx.out * dot", "not divided"),
        ("(x * x).sum", "(x * x).mean", "rms_norm"),
    ),
    "group_norm": edits(
        ("d - mean - ctx.normalized * projection", "d", "two terms"),
        ("d - mean - ctx.normalized * projection", "d - mean", "through std"),
        ("(dout * ctx.weight).reshape", "dout.reshape", "weight is missing"),
        ("len(x), groups, x.shape[1] // groups", "len(x), 1, x.shape[1]", "own"),
    ),
    "squared_relu": edits(
        ("dout * 2 * ctx.relu", "dout * ctx.relu", "factor 2"),
        ("dout * 2 * ctx.relu", "2 * ctx.relu", "dout"),
        ("np.maximum(x, 0)", "np.abs(x)", "negative"),
    ),
    "soft_cap": edits(
        ("dout * (1 - ctx.tanh * ctx.tanh)", "dout * (1 - ctx.tanh)", "square"),
        ("cap * ctx.tanh\n", "ctx.tanh\n", "factor is missing: `cap`"),
        ("np.tanh(x / cap)", "np.tanh(x)", "not divided by `cap`"),
    ),
    "focal_loss": edits(
        ("gamma * (1 - p) ** (gamma - 1) * ctx.ln_p - (1 - p) ** gamma / p", "-(1 - p) ** gamma / p", "product rule"),
        ("dout / n", "dout", "divided by `n`"),
        ("-((1 - np.exp(ctx.ln_p)) ** gamma)", "-(np.exp(ctx.ln_p) ** gamma)", "p^gamma"),
        (").mean()", ").sum()", "sum"),
    ),
}  # fmt: skip
