"""Activation checkpointing: the same numbers to the last bit, with less memory."""

import copy

import pytest

from finetune import LoRAConfig, apply_lora
from gpt import GPT, GPTConfig, accounting
from minigrad import autocast, inspection, manual_seed, nn, use_kernels
from tests.gpt.small import assert_same, gradients_of, random_ids, small_gpt, small_llama
from tests.gpt.test_training import begin


def loss_and_gradients(model, precision="float32"):
    manual_seed(3)
    losses = []
    for seed in range(2):  # two batches, whose gradients add up
        ids = random_ids((3, 8), seed)
        with autocast("bfloat16", enabled=precision == "bfloat16"):
            loss = model.loss(ids, ids)
        loss.backward()
        losses.append(loss.item())
    return losses, gradients_of(model)


def frozen(model):
    """With LoRA, the first block's input needs no gradient, and most parameters have none."""
    apply_lora(model, LoRAConfig(r=2))
    return model


@pytest.mark.parametrize(("kernels", "precision"), [("textbook", "float32"), ("fast", "bfloat16")])
@pytest.mark.parametrize(
    "build",
    [lambda: small_gpt(dropout=0.3), lambda: small_gpt(norm="post"), small_llama, lambda: frozen(small_gpt())],
    ids=["gpt with dropout", "post-norm", "llama", "lora"],
)
def test_loss_and_gradients_are_the_same_to_the_last_bit(build, kernels, precision):
    with use_kernels(kernels):
        manual_seed(0)
        plain = build()
        manual_seed(0)
        saving = build()
        nn.checkpoint_activations(saving)
        (losses, gradients), (again, recomputed) = (loss_and_gradients(m.train(), precision) for m in (plain, saving))
        assert losses == again
        assert_same(recomputed, gradients)
        assert list(saving.state_dict()) == list(plain.state_dict())
        copied = copy.deepcopy(saving)
        copied.zero_grad()
        own = loss_and_gradients(copied, precision)[1]  # those of the copy's blocks, not of the original's
        assert own.keys() == gradients.keys()


@pytest.mark.cpu_only("the stand-in has the textbook's kernels whatever is chosen")
@pytest.mark.parametrize("kernels", ["textbook", "fast"])
def test_the_memory_is_what_accounting_says(kernels):
    config = GPTConfig(vocab_size=64, block_size=32, n_layer=6, n_head=2, n_embd=32)
    model = GPT(config)
    nn.checkpoint_activations(model)
    ids = random_ids((2, 32), vocab_size=64)
    with use_kernels(kernels), inspection.memory() as report:
        model.loss(ids, ids).backward()
    expected = accounting.activation_bytes(config, 2, 32, kernels=kernels, checkpointed=True)
    assert report.peak == pytest.approx(expected, rel=0.1)
    assert expected < accounting.activation_bytes(config, 2, 32, kernels=kernels) / 2


def test_training_is_the_same_and_a_changed_weight_is_noticed(tmp_path):
    plain, saving = (begin(tmp_path / str(flag), checkpoint_activations=flag) for flag in (False, True))
    assert_same(plain.model, saving.model)
    ids = random_ids((2, 5), vocab_size=16)
    loss = saving.model.loss(ids, ids)
    saving.optimizer.step()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    with pytest.raises(ValueError, match="has no ModuleList"):
        nn.checkpoint_activations(nn.Linear(2, 2))
