"""Whatever computes, on the CPU and on a device "cuda": the same numbers there, and who waits for the device?

The device is the strict stand-in for CuPy (tests/standin), which refuses NumPy's functions and arrays, so a `np.` where
`xp.` belongs fails here. With --device=gpu (scripts/verify_gpu.py) it is a GPU, which counts nothing.
"""

import math
from functools import partial

import numpy as np
import pytest

import minigrad.functional as F
from finetune import LoRAConfig, apply_lora, merge_lora, unmerge_lora
from finetune.adapters.adapter_files import load_adapter, save_adapter
from finetune.adapters.qlora import apply_qlora
from finetune.data.chat_template import resize_token_embeddings
from finetune.data.pairs import EncodedReply, Pair, pair_batch
from finetune.objectives import dpo, sft
from finetune.objectives.classification import classification_loss
from finetune.objectives.logprobs import entropy, estimated_kl, exact_kl, selected_logprobs
from finetune.objectives.model_with_head import ModelWithHead
from finetune.objectives.reward import reward_batch_loss
from finetune.objectives.rollout import PolicyWithValue, TokenPositions, roll_out
from finetune.quantization.quantized_layers import QuantizedEmbedding, QuantizedLinear
from finetune.stages.grpo import GRPOBatch, GRPOConfig, grpo_batch_loss
from finetune.stages.ppo import PPOBatch, PPOConfig, ppo_batch_loss
from gpt import GPT, KVCache, load_checkpoint, save_checkpoint
from gpt.interpretability.activations import patched, record_activations
from gpt.model.generation import Sampling
from gpt.model.moe import balance_loss, mixtures, use_experts
from gpt.model.speculation import speculate
from gpt.training.batches import RandomBatches
from gpt.training.evaluation import evaluate, token_losses
from gpt.training.training_config import TrainingConfig, prepare_training
from gpt.training.training_step import language_model_loss, training_step
from minigrad import Tensor, autocast, backend, inspection, manual_seed, nn, no_grad, optim, use_kernels
from minigrad.gradcheck.check import GradcheckError, gradcheck
from minigrad.muon import Muon
from minigrad.nn.activation_checkpointing import checkpoint_activations
from minigrad.precision import round_bfloat16
from tests.finetune.small import normal
from tests.finetune.test_quant_blocks import KINDS, block_array
from tests.finetune.test_quant_layers import QUANTIZERS
from tests.gpt.small import assert_same, random_ids, small_gpt, small_llama, weights_of
from tests.gpt.test_training import TEXT, arrays_of, assert_same_arrays, begin, ctrl_c_at, go_on, steps_of
from tests.minigrad.test_diagnosis import MUTANTS, with_backward
from tests.minigrad.test_ops_golden import golden
from tests.minigrad.test_ops_torch import CASES, compare, compute
from tests.standin import arrays

# --- ops, beside what PyTorch once gave ---

MASKS = ("getitem a mask", "getitem a list of booleans")  # how many are True, only the device knows


# A case that computes with NumPy itself cannot be asked to do it elsewhere.
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("rotary_embedding")])
def test_op(cuda, name):
    cuda.reset()
    with np.errstate(all="ignore"):
        tensors, results = compute(name, golden()[name], device="cuda")
    assert cuda.synchronisations == 0 or name.startswith(MASKS)
    assert all(backend.device_of(result.data) == "cuda:0" for result in results)
    compare(tensors, results, golden()[name])


# --- models, losses, layers and optimizers: a function of the device for each, and how often it waits ---

IDS, TARGETS = random_ids((3, 8)), random_ids((3, 8), seed=1)
TARGETS[0, :4], TARGETS[2, 5:] = -100, -100


def experts():
    model = small_gpt(n_layer=1)
    use_experts(model, 4)
    return model


def checkpointed():
    model = experts()
    checkpoint_activations(model.transformer.h)
    return model


def model_row(make):
    def row(device):
        model = make().to(device)
        loss = model.loss(IDS, TARGETS)
        (loss + balance_loss(model) if mixtures(model) else loss).backward()
        return [loss, model(IDS), model.token_logprobs(IDS, np.abs(TARGETS) % 37), gradients(model)]

    return row


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


def text_row(make, **options):
    def row(device):  # prompts of different lengths, and texts that outgrow the block
        return make(dtype="float64").to(device).generate([[1, 2, 3], [4], [5, 6]], 14, seed=0, **options)

    return row


def cache_row(device):
    model = small_llama().to(device)
    cache = KVCache.for_model(model, 2)
    with no_grad():
        return [model(IDS[:2, :4], cache), model(IDS[:2, 4:], cache), [k[:, :, :8] for k in cache.keys.values()]]


def loss_row(make, loss_fn, batch):
    def row(device):
        model = make().to(device)
        loss, count, metrics = loss_fn(model, batch)
        loss.backward()
        return [loss, count, metrics, gradients(model)]

    return row


PAIRS = pair_batch(
    [
        Pair(
            EncodedReply([1, 2, 3, 4], [False, False, True, True], -2.0),
            EncodedReply([1, 2, 5], [False, False, True], -3.0),
        ),
        Pair(
            EncodedReply([7, 8, 9], [False, True, True], -2.5),
            EncodedReply([7, 6, 5, 4], [False, True, True, True], -4.0),
        ),
    ]
)
TOKENS = random_ids((2, 8))
POSITIONS = TokenPositions.of(np.array([3, 4]), np.array([[True, True, False], [True, True, True]]))
KNOWN = np.random.default_rng(0).standard_normal((4, 5))


def reply_row(device):
    """Replies of a policy, judged; then what is computed of logits."""
    policy, reference = (small_gpt(seed, n_layer=1, dtype="float64").to(device) for seed in (0, 1))
    judge = ModelWithHead(small_gpt().transformer, ["score"]).to("float64", device)
    rollout = roll_out(PolicyWithValue(policy).to(device), reference, judge, [[1, 2, 3], [4]], 4, [5])
    logits, others = policy(TOKENS), reference(TOKENS)
    found = [selected_logprobs(logits, TOKENS), entropy(logits), exact_kl(logits, others)]
    return [vars(rollout), *found, estimated_kl(found[0], selected_logprobs(others, TOKENS), "k3")]


QUANTIZED = {name: partial(quantize, normal(33, 64)) for name, quantize in QUANTIZERS.items()}
QUANTIZED |= {kind: lambda kind=kind: block_array(kind, 33, 2)[0] for kind in KINDS}


def quantized_row(make):
    def row(device):
        layer = QuantizedLinear(make(), nn.Parameter(normal(33, seed=3))).to(device)
        x = Tensor(normal(2, 3, 64, seed=4), device=device, requires_grad=True)
        out = layer(x)
        out.backward(backend.to_device(normal(2, 3, 33, seed=5), device))
        ids = backend.to_device(np.array([[1, 32], [0, 1]]), device)
        return [out, x.grad, layer.bias.grad, QuantizedEmbedding(layer.weight)(ids)]

    return row


def adapted_row(device):
    model = small_gpt(n_layer=1).to(device)
    apply_lora(model, LoRAConfig(r=2, slices=("q", "v")))
    model.loss(IDS, TARGETS).backward()
    before = gradients(model)
    for layer in (layers := merge_lora(model)).values():  # which looks whether the adapters are finite
        assert layer.merged
    merged = model(IDS)
    unmerge_lora(model, layers)
    return [before, merged, model(IDS)]


def qlora_row(device):
    model = small_gpt(n_layer=1, n_embd=64)
    apply_qlora(model, LoRAConfig(r=2))
    model.to(device).loss(IDS, TARGETS).backward()
    return [gradients(model), model(IDS)]


def optimizer_row(make):
    """Three steps, of which the second leaves a parameter out. A step scales all gradients, or none."""

    def row(device):
        manual_seed(0)
        parameters = [Tensor(np.array(normal(*shape)), True, device=device) for shape in ((6, 4), (4, 5), (3,), ())]
        optimizer = make(parameters)
        norms = []
        for step, max_norm in enumerate([1e9, 1.0, 1.0]):
            for i, p in enumerate(parameters):
                gradient = np.array(100 * normal(*p.shape, seed=step + 1))
                p.grad = None if (i, step) == (1, 1) else backend.to_device(gradient, device)
            norms.append(optim.clip_grad_norm_(parameters, max_norm))
            optimizer.step()
        again = make(parameters)
        again.load_state_dict(optimizer.state_dict())
        return [parameters, [p.grad for p in parameters], norms, again.state_dict()["state"]]

    return row


def matrices(parameters):
    return Muon([{"params": parameters[:2]}, {"params": parameters[2:], "orthogonalize": False}], lr=0.1)


def training_row(precision, accumulated):
    def row(device):
        manual_seed(11)
        model = small_gpt(n_layer=1).to(device)
        config = {"max_iters": 2, "learning_rate": 1e-2, "warmup_iters": 2, "precision": precision}
        config["gradient_accumulation_steps"] = accumulated
        return [(step.loss, step.grad_norm) for step in steps_of(model, RandomBatches(TEXT, 4, 8, seed=2), **config)]

    return row


def looked_at_row(device):
    """What is measured, recorded and changed in a trained model."""
    model = small_gpt(n_layer=1).to(device)
    resize_token_embeddings(model, 40)
    with record_activations(model, ["transformer.h.0"]) as found, no_grad():
        model(IDS)
    with patched(model, {"transformer.h.0": np.zeros((3, 8, 8))}), no_grad():
        out = model(IDS)
    losses = evaluate(model, [(IDS, TARGETS)], language_model_loss)
    return [found, out, losses, token_losses(model, np.arange(30))]


def speculation_row(device):
    model = small_gpt(dtype="float64", block_size=40).to(device)
    return list(speculate(model, [1, 2, 3, 9, 1, 2, 3], 20, Sampling(temperature=0)))


def bfloat16_row(device):
    x = backend.to_device(normal(5, 3), device)
    with autocast():
        return [round_bfloat16(x), F.matmul(Tensor(x), Tensor(x).T), F.linear(Tensor(x), Tensor(x))]


def more_ops_row(device):
    x = Tensor(normal(2, 3, 8), True, device=device)
    ids = backend.to_device(np.array([1, 0, 2]), device)
    out = F.merge_heads(F.split_heads(x, 2)) + F.scaled_dot_product_attention(x, x, x, dropout_p=1.0)
    (out * F.one_hot(ids, 8)).sum().backward()
    return [
        out,
        x.grad,
        F.dropout(x, 1.0),
        F.where(np.True_, x, 0.0),
        nn.init.normal_(Tensor(np.zeros((2, 3)), device=device)),
    ]


one_block = partial(small_gpt, n_layer=1)
with_head = {n: lambda n=n: ModelWithHead(one_block().transformer, list("abc"[:n])) for n in (1, 3)}
replies = dict(zip(("old_logprobs", "reference_logprobs", "advantages", "weights"), KNOWN))
ON_KERNELS = {  # which have kernels for a GPU, and are run with and without them
    "GPT": model_row(small_gpt),
    "GPT, post-norm": model_row(partial(one_block, norm="post")),
    "GPT, sinusoidal": model_row(partial(one_block, positions="sinusoidal")),
    "GPT, checkpointed": model_row(checkpointed),
    "Llama": model_row(small_llama),
    "loss of SFT": loss_row(one_block, sft.sft_loss, (IDS, TARGETS)),
    "loss of DPO": loss_row(one_block, dpo.dpo_batch_loss, PAIRS),
    "loss of a reward model": loss_row(with_head[1], reward_batch_loss, PAIRS),
    "loss of a classifier": loss_row(
        with_head[3], classification_loss, (random_ids((4, 6)), np.array([6, 2, 3, 6]), np.array([0, 2, 1, 1]))
    ),
    "loss of PPO": loss_row(
        lambda: PolicyWithValue(one_block()),
        partial(ppo_batch_loss, config=PPOConfig()),
        PPOBatch(TOKENS, POSITIONS, *KNOWN),
    ),
    "loss of GRPO": loss_row(
        one_block, partial(grpo_batch_loss, config=GRPOConfig(beta=0.1)), GRPOBatch(TOKENS, POSITIONS, **replies)
    ),
    "a cache": cache_row,
    "a text of Llama": text_row(small_llama, temperature=0),
    "training": training_row("float32", 2),
    "training in bfloat16": training_row("bfloat16", 1),
}
ROWS = {
    **ON_KERNELS,
    "a text": text_row(small_gpt),
    "a text with options": text_row(small_gpt, top_k=5, top_p=0.9, repetition_penalty=1.2),
    "a text without a cache": text_row(small_gpt, temperature=0, use_cache=False),
    "a text with guesses": speculation_row,
    "a text after a tensor": lambda device: (
        small_gpt().to(device).generate(Tensor(IDS, device=device), 2, temperature=0)
    ),
    "replies": reply_row,
    **{f"quantized: {name}": quantized_row(make) for name, make in QUANTIZED.items()},
    "LoRA": adapted_row,
    "QLoRA": qlora_row,
    "SGD": optimizer_row(partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True)),
    "Adam": optimizer_row(partial(optim.Adam, weight_decay=0.3)),
    "AdamW": optimizer_row(partial(optim.AdamW, lr=0.1)),
    "Muon": optimizer_row(matrices),
    "evaluation and activations": looked_at_row,
    "bfloat16": bfloat16_row,
    "more ops": more_ops_row,
}
# name -> how often the host waits: for each token of a text, once for the numbers of each step, and twice in each pass
# through a mixture of experts, which must know how many tokens an expert gets
WAITS = {"a text": 14, "a text of Llama": 14, "a text with options": 14, "a text without a cache": 42}
WAITS |= {"a text with guesses": 5, "a text after a tensor": 3, "replies": 8, "training": 2, "training in bfloat16": 2}
WAITS |= {"GPT, checkpointed": 8, "LoRA": 2, "evaluation and activations": 2}


def numbers_in(value):
    """The arrays and numbers in a result, in order, on the host."""
    if isinstance(value, dict | list | tuple):
        return [x for part in (value.values() if isinstance(value, dict) else value) for x in numbers_in(part)]
    if value is None:
        return []
    value = backend.array_of(value)
    return [backend.to_numpy(value) if backend.is_array(value) else np.asarray(value)]


@pytest.mark.parametrize(
    "name, kernels",
    [(name, "textbook") for name in ROWS]
    + [pytest.param(name, "fast", marks=pytest.mark.emulation) for name in ON_KERNELS],
)
def test_it_computes_what_the_cpu_computes(cuda, name, kernels):
    found = []
    with use_kernels(kernels):
        for device in ("cpu", "cuda"):
            manual_seed(3)
            cuda.reset()
            result = ROWS[name](device)
            assert cuda.synchronisations == (0 if device == "cpu" else WAITS.get(name, 0))
            found.append(numbers_in(result))
    rtol, atol = (2e-2, 1e-2) if "bfloat16" in name else (1e-3, 1e-5)
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["GPT", "training", "SGD", "Adam", "AdamW", "Muon"])
def test_float32_stays_float32(cuda, name, monkeypatch):
    """A number on the GPU is an array without dimensions, and a float64 one would widen all that it meets."""
    made = set()
    original = arrays.elementwise

    def elementwise(*args, **options):
        result = original(*args, **options)
        made.add(result.dtype if result.shape else None)
        return result

    monkeypatch.setattr(arrays, "elementwise", elementwise)
    ROWS[name]("cuda")
    assert made - {np.dtype(bool), np.dtype(np.int64), None} <= {np.dtype(np.float32)}


# --- what only a device can do wrong ---


def test_a_model_moves_there_and_back_and_is_read_from_files(cuda, tmp_path):
    model, weights = small_gpt(), weights_of(small_gpt())
    assert model.to("cuda") is model and model.lm_head.weight is model.transformer.wte.weight
    assert {p.device for p in model.parameters()} == {"cuda:0"}
    save_checkpoint(tmp_path / "there", model)
    model.save_pretrained(tmp_path / "pretrained")
    for loaded in (load_checkpoint(tmp_path / "there").model, GPT.from_pretrained(tmp_path / "pretrained")):
        assert {p.device for p in loaded.parameters()} == {"cpu"}
        assert_same(loaded, weights)
    other = small_gpt(seed=1).to("cuda")
    other.load_state_dict(loaded.state_dict())  # from the CPU into a model on the GPU
    assert {p.device for p in other.parameters()} == {"cuda:0"}
    small_gpt(seed=2).load_state_dict(other.state_dict())  # and back
    adapted = small_gpt().to("cuda")
    layers = apply_lora(adapted, LoRAConfig(r=2))
    save_adapter(adapted, tmp_path / "adapter")
    again = small_gpt().to("cuda")
    load_adapter(again, tmp_path / "adapter")
    assert_same(again, adapted)
    assert {layer.lora_A.device for layer in layers.values()} == {"cuda:0"}
    assert_same(other.to("cpu"), weights)
    assert {type(p.data) for p in other.parameters()} == {np.ndarray}


def test_ids_are_checked_on_the_host_before_they_move(cuda):
    model = small_gpt().to("cuda")
    cuda.reset()
    for wrong in (-1, 37):
        with pytest.raises(IndexError, match="outside 0..36 of the vocabulary"):
            model([[1, wrong]])
        with pytest.raises(IndexError, match="outside 0..36 of the vocabulary"):
            model.loss([[1, 2]], [[1, wrong]])
    model([[1, 2]])
    assert cuda.synchronisations == 0 and cuda.to_device == 3  # ids that were right


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NaN, where the stand-in meets it
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing_there(cuda, number):
    def loss_fn(*arguments):
        loss, n, metrics = language_model_loss(*arguments)
        return loss * number, n, metrics

    model = small_gpt().to("cuda")
    optimizer, schedule = prepare_training(model, TrainingConfig(max_iters=12, learning_rate=1e-2))
    for function, is_bad in ((language_model_loss, False), (loss_fn, True)):  # before the first step there is no state
        before = arrays_of(model, optimizer)
        assert training_step(model, [(IDS, TARGETS)], function, optimizer, schedule, 1.0).skipped == is_bad
    assert_same(arrays_of(model, optimizer), before)  # Adam's count of steps, too


@pytest.mark.parametrize("first, then", [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_run_goes_on_on_another_device(tmp_path, cuda, first, then):
    quiet = {"eval_interval": 0, "sample_interval": 0}
    begin(tmp_path / "run", {"after_step": ctrl_c_at(5)}, first, **quiet)
    assert load_checkpoint(tmp_path / "run").state["count"] == 5 * 32
    resumed = go_on(tmp_path / "run", then)
    whole = begin(tmp_path / "whole", **quiet)
    assert_same_arrays(resumed, whole, rtol=1e-3, atol=1e-5)
    assert resumed.state.count == whole.state.count


def test_changes_in_place_wait_for_nothing_and_are_noticed(cuda):
    w = nn.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3)).to("cuda").detach().requires_grad_()
    x = Tensor(np.ones((1, 3), np.float32), requires_grad=True, device="cuda")
    out = F.linear(x, w).sum()
    array = w.data
    cuda.reset()
    with no_grad():
        w -= 0.5 * w
        w *= 2
        w[0] = 7.0
        w[1:, 0] += backend.to_device(np.ones(1, np.float32), "cuda")
    assert cuda.synchronisations == cuda.to_host == 0 and w.data is array
    assert w.data.get().tolist() == [[7.0, 7.0, 7.0], [4.0, 4.0, 5.0]]
    with pytest.raises(RuntimeError, match="changed in place before"):
        out.backward()


@pytest.mark.parametrize("name", ["sign of sub", "transposed in a square"])
def test_gradcheck_names_what_is_wrong_there(cuda, name):
    fn, inputs, op, backward, kind, _ = MUTANTS[name]
    inputs = [Tensor(x, device="cuda") for x in (inputs if isinstance(inputs, list) else [inputs])]
    with with_backward(op, backward), pytest.raises(GradcheckError) as caught:
        gradcheck(fn, inputs)
    assert caught.value.diagnosis.kind == kind


def test_inspection_there(cuda, tmp_path):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=True, device="cuda")
    with inspection.profile() as profile, inspection.memory() as memory:
        loss = (F.softmax(x * 2, -1) * x).sum()
    loss.backward()
    assert "Softmax" in str(profile) and memory.peak > 0
    inspection.draw(loss, tmp_path / "graph.svg")
    assert "Softmax" in (tmp_path / "graph.svg").read_text(encoding="utf-8")
    with inspection.detect_anomaly(), pytest.raises(inspection.AnomalyError, match="Log made"):
        F.log(x * 0 - 1)
