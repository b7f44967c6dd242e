"""The library's own code in the form that an exercise asks for: a right solution that was not made of the stub."""

import functools
import math
import pkgutil
import types
from unittest import mock

import numpy as np

import minigrad.functional as F
from finetune.adapters.lora import LoRALinear
from finetune.quantization.array import unpack
from gpt.model.generation import Sampling
from gpt.model.kv_cache import KVCache
from minigrad import Tensor, nn, optim, switches
from minigrad.autograd import Function
from minigrad.functional import stochastic


def definitions(exercise):
    """The definitions of a right learner's file, made of the objects that the exercise names as its answer."""
    library = {name.rpartition(".")[2]: pkgutil.resolve_name(name) for name in exercise.answer}
    return ADAPTED.get(exercise.name, dict)(library)


# --- engine -----------------------------------------------------------------------------------------------------------


def as_function(fn, name, differentiate=None):
    """A Function out of library code that works on Tensors: its backward is the engine's.

    differentiate: which inputs get a gradient; by default all floating-point arrays.
    """

    def leaf(i, value):
        wanted = isinstance(value, np.ndarray) and value.dtype.kind == "f"
        return Tensor(value, requires_grad=True) if wanted and (differentiate is None or i in differentiate) else value

    class Wrapped(Function):
        @staticmethod
        def forward(ctx, *arrays, **options):
            ctx.leaves = [leaf(i, array) for i, array in enumerate(arrays)]
            kept = switches.recording.get()
            switches.recording.set((True,))
            try:
                ctx.out = fn(*ctx.leaves, **options)
            finally:
                switches.recording.set(kept)
            return ctx.out.data

        @staticmethod
        def backward(ctx, dout):
            for leaf in ctx.leaves:
                if isinstance(leaf, Tensor):
                    leaf.grad = None
            ctx.out.backward(dout, retain_graph=True)
            return tuple(leaf.grad if isinstance(leaf, Tensor) else None for leaf in ctx.leaves)

    Wrapped.__name__ = name
    return {name: Wrapped}


def called_with(name, arrange):
    """The library's op of this name, with the arguments that `arrange` makes of the exercise's."""

    def adapted(library):
        class Op(library[name]):
            @staticmethod
            def forward(ctx, *arrays, **options):
                return library[name].forward(ctx, *arrange(*arrays, **options))

        return {name: Op}

    return adapted


def walk(library):
    """Not the engine's walk, which needs Tensors: along every path to the leaf, one after the other."""

    def backward(node, gradient=1.0):
        node.grad += gradient
        for source, slope in node.inputs:
            backward(source, gradient * slope)

    return {"backward": backward}


def dropout(library):
    """The library's op, which draws from a stream, made to use the numbers that the exercise gives."""

    class Dropout(library["Dropout"]):
        @staticmethod
        def forward(ctx, x, uniform, p):
            with mock.patch.object(stochastic, "uniform_rows", lambda *stream: uniform):
                return library["Dropout"].forward(ctx, x, p, None)

        @staticmethod
        def backward(ctx, dout):
            return *library["Dropout"].backward(ctx, dout), None

    return {"Dropout": Dropout}


def attention(library):
    op = library["ScaledDotProductAttention"]

    class Attention(op):
        @staticmethod
        def forward(ctx, q, k, v, mask):
            return op.forward(ctx, q, k, v, mask, False, 1 / math.sqrt(q.shape[-1]), 0.0, None)

        @staticmethod
        def backward(ctx, dout):
            return *op.backward(ctx, dout)[:3], None

    return {"Attention": Attention}


def online_softmax(library):
    """The library's loop over tiles, with a plan that says what its own plan would."""

    def attention(q, k, v, tile):
        tiles = [slice(start, start + tile) for start in range(0, len(k), tile)]
        plan = types.SimpleNamespace(q=q[None], scale=1 / math.sqrt(q.shape[1]), may_hide_rows=False)
        plan.key_blocks, plan.hide, plan.keep = lambda rows: tiles, lambda scores, *where: scores, lambda *where: None
        return library["_forward_rows"](plan, slice(None), slice(0, len(q)), k.T[None], v[None])[0][0]

    return {"attention": attention}


def latent_attention(library):
    def read(q, q_rope, c, k_rope, W_UK, W_UV):
        k_proj, v_proj = (types.SimpleNamespace(weight=Tensor(w.reshape(-1, w.shape[2]))) for w in (W_UK, W_UV))
        scale = (q.shape[1] + q_rope.shape[1]) ** -0.5
        layer = types.SimpleNamespace(n_head=len(q), scale=scale, k_proj=k_proj, v_proj=v_proj)
        arrays = (Tensor(array[None]) for array in (q[:, None], q_rope[:, None], c[None], k_rope[None]))
        return library["absorbed"](layer, *arrays, None).data[0, :, 0]

    return {"read": read}


# --- optimizers -------------------------------------------------------------------------------------------------------


def sgd(library):
    def step(p, grad, velocity, lr, momentum, weight_decay):
        tensor = Tensor(p.copy())
        state = {"velocity": velocity.copy()}
        library["update"](None, tensor, grad, state, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        return tensor.data, state["velocity"] if momentum else (p - tensor.data) / lr

    return {"sgd": step}


def adam(name, kind, library):
    plain = optim.Adam.update  # what AdamW's calls: not the learner's, which may be in its place

    def step(p, grad, m, v, t, lr, beta1, beta2, eps, weight_decay=0):
        tensor = Tensor(p.copy())
        state = {"step": t - 1, "exp_avg": m.copy(), "exp_avg_sq": v.copy()}
        group = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
        with mock.patch.object(optim.Adam, "update", plain):
            library["update"](kind([Tensor(p.copy())]), tensor, grad, state, group)
        return tensor.data, state["exp_avg"], state["exp_avg_sq"]

    return {name: step}


def clipping(library):
    def clip(gradients, max_norm):
        tensors = [Tensor(g.copy()) for g in gradients]
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient.copy()
        norm = float(library["clip_grad_norm_"](tensors, max_norm))
        return [tensor.grad for tensor in tensors], norm

    return {"clip": clip}


def warmup_cosine(library):
    def ratio(step, warmup, total, min_ratio):
        schedule = types.SimpleNamespace(warmup_steps=warmup, total_steps=total, min_ratio=min_ratio)
        return float(library["ratio"](schedule, step))

    return {"ratio": ratio}


# --- writing ----------------------------------------------------------------------------------------------------------


def sampling(library):
    def probabilities(logits, temperature, top_k, top_p):
        tokens, kept = library["candidates"](Sampling(temperature, top_k, top_p), logits)
        probs = np.zeros(len(logits))
        probs[tokens] = kept
        return probs

    return {"probabilities": probabilities}


def kv_cache(library):
    class Cache:
        def __init__(self):
            self.cache = None

        def append(self, keys, values):
            if self.cache is None:
                B, H, _, D = keys.shape
                self.cache = KVCache(B, 100)
            result = library["append"](self.cache, 0, Tensor(keys), Tensor(values))
            self.cache.advance(keys.shape[2])
            return tuple(tensor.data.copy() for tensor in result)

    return {"KVCache": Cache}


# --- fine-tuning and quantization -------------------------------------------------------------------------------------


def ppo_clip(library):
    def loss(logprobs, old_logprobs, advantages, eps):
        logprobs = logprobs if isinstance(logprobs, Tensor) else Tensor(logprobs)
        return library["policy_loss"](logprobs, old_logprobs, advantages, clip=eps)

    return as_function(loss, "PolicyLoss", differentiate=(0,))


def gae(library):
    def of_one_reply(rewards, values, gamma, lam):
        advantages, returns = library["gae"](rewards[None], values[None], np.ones((1, len(rewards)), bool), gamma, lam)
        return advantages[0], returns[0]

    return {"gae": of_one_reply}


def grpo(library):
    def grpo_loss(ratio, mask, rewards):
        rows = np.nonzero(mask)[0]
        advantages = library["group_advantages"](rewards).reshape(-1)[rows]
        weights = library["answer_weights"](mask.sum(axis=1))[rows]
        old = np.zeros(len(rows))
        losses = library["grpo_loss"](Tensor(np.log(ratio[mask]), dtype="float64"), old, advantages, weights)
        return losses.sum().item() / len(mask)

    return {"grpo_loss": grpo_loss}


def choice_score(library):
    def score(logits, ids, start, characters):
        found = library["choice_score"](Tensor(logits[:-1], dtype="float64"), ids, len(ids) - start)
        return found, found / characters

    return {"choice_score": score}


def delta_rule(library):
    def loop(q, k, v, beta, alpha):
        S = np.zeros((v.shape[1], k.shape[1]))
        arrays = (q, k, v, beta[:, None], np.log(alpha)[:, None], S)
        return library["token_by_token"](*(Tensor(x[None, None]) for x in arrays))[0].data[0, 0]

    return {"delta_rule": loop}


def lora(library):
    def layer(weight, A, B, scaling):
        base = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        made = LoRALinear(base, r=A.shape[0], scaling=scaling)
        for module, name, value in ((base, "weight", weight), (made, "lora_A", A), (made, "lora_B", B)):
            del vars(module)[name]  # a parameter could only be replaced by another one
            setattr(module, name, value if isinstance(value, Tensor) else Tensor(value))
        return made

    def forward(x, weight, A, B, scaling):
        return library["forward"](layer(weight, A, B, scaling), x)

    def merge(weight, A, B, scaling):
        return weight + library["delta"](layer(weight, A, B, scaling))

    return as_function(forward, "LoRA", (0, 2, 3)) | {"merge": merge}


def absmax(library):
    def in_rows(values):
        scales, _ = library["grid"](values[:, None].astype(np.float32), 8, True)
        return library["to_levels"](values, scales, None, 8).astype(np.int8), scales

    return {"absmax": in_rows}


def nf4(library):
    def in_blocks(values, block, levels):
        quantized = library["nf4"](values[None].astype(np.float32), group_size=block, double_quant=False)
        return unpack(quantized.codes)[0].astype(int), quantized.scales[0].astype(np.float64)

    return {"nf4": in_blocks}


# Exercise -> from the library's objects, by their last names, to what the stub asks for. Without an entry the names and
# the arguments are the same.
ADAPTED = {
    "walk": walk,
    "gelu": called_with("Gelu", lambda x: (x, "tanh")),
    "cross_entropy": called_with(
        "CrossEntropy", lambda logits, targets, ignore_index: (logits, targets, ignore_index, "mean")
    ),
    "layer_norm": called_with("LayerNorm", lambda x, weight, bias, eps: (x, weight, bias, (x.ndim - 1,), eps)),
    "rms_norm": called_with("RmsNorm", lambda x, weight, eps: (x, weight, (x.ndim - 1,), eps)),
    "dropout": dropout,
    "attention": attention,
    "causal_mask": lambda library: {"causal_mask": lambda T, S: library["causal_mask"](np, T, S, past=S - T)},
    "weight_tying": lambda library: as_function(lambda ids, w: F.linear(F.embedding(ids, w), w), "Tied"),
    "sgd": sgd,
    "adam": functools.partial(adam, "adam", optim.Adam),
    "adamw": functools.partial(adam, "adamw", optim.AdamW),
    "clipping": clipping,
    "warmup_cosine": warmup_cosine,
    "positions": lambda library: {"sinusoidal": library["sinusoidal_table"]},
    "sampling": sampling,
    "kv_cache": kv_cache,
    "bradley_terry": lambda library: as_function(library["reward_loss"], "RewardLoss"),
    "dpo": lambda library: as_function(library["dpo_loss"], "DPOLoss", differentiate=(0, 1)),
    "distillation": lambda library: as_function(
        lambda *inputs, **options: library["distillation_loss"](*inputs, **options).mean(), "Distillation", (0,)
    ),
    "ppo_clip": ppo_clip,
    "gae": gae,
    "lora": lora,
    "absmax": absmax,
    "nf4": nf4,
    "online_softmax": online_softmax,
    "latent_attention": latent_attention,
    "grpo": grpo,
    "choice_score": choice_score,
    "delta_rule": delta_rule,
    "induction": lambda library: {"follows_earlier": lambda row: library["follows_earlier"](row[None])[0]},
    "ablation": lambda library: {
        "without_heads": lambda x, off, n_head: np.asarray(library["without_heads"](Tensor(x), off, n_head).data)
    },
}
