"""The recorder: what it keeps is what the run computed, and its Jacobians are what the gradients are made of."""

import linecache
import threading

import numpy as np
import pytest

import minigrad.functional as F
from minigrad import Function, Tensor, manual_seed, nn, optim, use_kernels
from minigrad.inspection import record
from tests.helpers import needs_threads


class Model(nn.Module):
    def __init__(self):
        manual_seed(0)
        self.table, self.out = nn.Embedding(5, 4), nn.Linear(4, 5)

    def loss(self, ids, targets):
        x = F.gelu(self.table(ids)) * 2 + self.table(targets)
        x = F.softmax(F.layer_norm(x, 4), -1)
        q, k, v = F.split_heads(x.reshape(1, 3, 4), 2, parts=1), *(x.reshape(1, 2, 3, 2) for _ in range(2))
        x = F.merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True))[0]
        return F.cross_entropy(self.out(x), targets)


IDS, TARGETS = np.array([1, 3, 1]), np.array([3, 1, 0])


def one_step(model, watched=True, **options):
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    if not watched:
        loss = model.loss(IDS, TARGETS)
        loss.backward()
        gradients = [p.grad.copy() for p in model.parameters()]
        optim.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss, gradients
    with record(**options) as recording:
        loss = model.loss(IDS, TARGETS)
        loss.backward()
    recording.update(optimizer, model, 0.1)
    return loss, recording


def test_a_recording_holds_what_the_run_computed():
    model, twin = Model(), Model()
    loss, recording = one_step(model)
    other, gradients = one_step(twin, watched=False)
    assert loss.item() == other.item() == recording.calls[-1].outputs[0].array
    for update, gradient, p, q in zip(recording.updates, gradients, model.parameters(), twin.parameters(), strict=True):
        assert np.array_equal(update.gradient.array, gradient)
        assert np.array_equal(update.clipped.array, q.grad) and np.array_equal(update.after.array, q.data)
        assert np.array_equal(p.data, q.data) and not np.array_equal(update.before.array, q.data)
    assert [update.name for update in recording.updates] == [name for name, _ in model.named_parameters()]
    assert sorted(call.order for call in recording.calls) == list(range(len(recording.calls)))


def test_every_gradient_is_made_of_the_shares_that_arrive():
    _, recording = one_step(Model())
    assert len(recording.calls) > 10
    for call in recording.calls:
        dout = np.concatenate([value.array.reshape(-1) for value in call.douts])
        for i, rows in call.jacobian.items():
            assert np.allclose(dout @ rows, call.dinputs[i].array.reshape(-1), atol=1e-6), call.function
    for update in recording.updates:  # and a parameter's gradient is the sum over its uses
        uses = [
            gradient.array
            for call in recording.calls
            for value, gradient in zip(call.inputs, call.dinputs, strict=True)
            if value is update.before
        ]
        assert uses and np.allclose(sum(uses), update.gradient.array)


def test_a_call_site_is_the_line_that_called():
    with record() as recording:
        F.softmax(Tensor([1.0, 2.0]), 0)
        F.linear_cross_entropy(Tensor([[1.0]]), Tensor([[1.0], [2.0]]), np.array([1]))
    softmax, linear, loss = recording.calls
    assert softmax.options == {"dim": 0} and linear.options == {} and loss.options["reduction"] == "mean"
    place = softmax.where[0]
    assert place.path == __file__ and "F.softmax(Tensor" in linecache.getline(place.path, place.line)


@pytest.mark.parametrize("budget", [0, 100, 2000])
def test_the_budget_is_kept_and_larger_arrays_are_summarized(budget):
    _, whole = one_step(Model())
    _, recording = one_step(Model(), budget=budget)
    values = {id(v): v for call in recording.calls for v in (*call.inputs, *call.outputs, *call.dinputs) if v}.values()
    kept = [v.array for v in values if v.array is not None]
    kept += [rows for call in recording.calls for rows in (call.jacobian or {}).values()]
    assert sum(array.nbytes for array in kept) <= recording.bytes <= budget
    assert any(v.array is None for v in values)
    for call, same in zip(recording.calls, whole.calls, strict=True):
        out, full = call.outputs[0], same.outputs[0]
        assert out.shape == full.shape and out.statistics == full.statistics
        assert np.array_equal(out.corner.reshape(-1)[:3], full.array.reshape(-1)[:3])


def test_large_arrays_leave_the_budget_to_small_ones():
    _, recording = one_step(Model(), largest=16)
    values = [v for call in recording.calls for v in (*call.inputs, *call.outputs, *call.douts, *call.dinputs) if v]
    assert {v.array is None for v in values} == {True, False}
    assert all((v.array is None) == (np.prod(v.shape) > 16) for v in values)


def test_a_learners_op_is_covered_even_if_its_backward_is_wrong():
    class Square(Function):
        forward = staticmethod(lambda ctx, x: (setattr(ctx, "x", x), x * x)[1])
        backward = staticmethod(lambda ctx, dout: (2 * ctx.x * dout,))

    class Broken(Square):
        backward = staticmethod(lambda ctx, dout: 1 / 0)

    x = Tensor([1.0, 3.0], requires_grad=True)
    with record() as recording:
        Square.apply(x)
        with pytest.raises(ZeroDivisionError):
            Broken.apply(x).sum().backward()
    assert np.array_equal(recording.calls[0].jacobian[0], np.diag([2.0, 6.0]))
    assert recording.calls[1].jacobian is None and recording.calls[1].order is None


def test_an_op_that_runs_other_ops_is_not_run_for_its_jacobian():
    weight = Tensor([3.0, 4.0], requires_grad=True)

    class Product(Function):  # checkpointing as it is often written: backward adds to the weight's gradient by itself
        @staticmethod
        def forward(ctx, x):
            ctx.x = x
            return x * weight.data

        @staticmethod
        def backward(ctx, dout):
            x = Tensor(ctx.x, requires_grad=True)
            (x * weight).backward(dout)
            return (x.grad,)

    x = Tensor([1.0, 2.0], requires_grad=True)
    with record() as recording:
        Product.apply(x).sum().backward()
    assert weight.grad.tolist() == [1, 2] and x.grad.tolist() == [3, 4]
    assert [call.function.__name__ for call in recording.calls] == ["Product", "Sum", "Mul"]  # Mul ran in backward
    assert [call.number for call in recording.calls] == [0, 1, 2]
    assert [call.jacobian is None for call in recording.calls] == [True, False, False]


@needs_threads
def test_while_a_jacobian_is_computed_other_threads_go_on():
    ran = []

    class Waiting(Function):
        forward = staticmethod(lambda ctx, x: x * 2)

        @staticmethod
        def backward(ctx, dout):
            other = threading.Thread(target=lambda: ran.append(F.exp(Tensor([0.0])).item()))
            other.start()
            other.join()
            return (dout * 2,)

    with record() as recording:
        Waiting.apply(Tensor([1.0, 3.0], requires_grad=True))
    assert ran == [1, 1] and recording.calls[-1].jacobian[0].tolist() == [[2, 0], [0, 2]]


def test_fast_kernels_are_recorded_too():
    with use_kernels("fast"):
        loss, recording = one_step(Model())
    assert loss.item() == recording.calls[-1].outputs[0].array
    assert any(call.function.__name__.startswith("Fast") for call in recording.calls)
