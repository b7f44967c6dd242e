"""A model of transformers with random weights and what it computes, for the scripts of this folder."""

import sys

import torch


def with_random_weights(model, spread_of_vectors=0.3):
    """`model` with random numbers in every parameter, norms and biases too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            spread = spread_of_vectors if parameter.ndim == 1 else 0.3
            parameter.copy_(mean + spread * torch.randn(parameter.shape))
    return model


def with_rows_of_one_length(model):
    """`model` with embeddings of length 1, so that it writes more than its longest token."""
    with torch.no_grad():
        tokens = model.get_input_embeddings().weight
        tokens /= tokens.norm(dim=1, keepdim=True)
    return model


def ids_and_targets(rng, vocab_size, length):
    """Two sequences; of the targets of the second, two do not count."""
    ids, targets = rng.integers(0, vocab_size, (2, 2, length))
    targets[1, 3:5] = -100
    return ids, targets


def logits_and_loss(model, ids, targets):
    """As arrays; the model's parameters get the gradients of the loss."""
    logits = model(torch.from_numpy(ids)).logits
    rows = logits.reshape(-1, logits.shape[-1])
    loss = torch.nn.functional.cross_entropy(rows, torch.from_numpy(targets).reshape(-1))
    loss.backward()
    return {"ids": ids, "targets": targets, "logits": logits.detach().numpy(), "loss": loss.item()}


def continuation(model, ids, length, **options):
    """Return the tokens that the model writes after `ids`, each time the most likely one."""
    options |= {"attention_mask": torch.ones(ids.shape), "do_sample": False, "pad_token_id": 0}
    new = model.generate(torch.from_numpy(ids), max_new_tokens=length, **options)
    return new[:, ids.shape[1] :].numpy()


def logits_and_greedy(model, ids, length):
    """As arrays: what the model computes for `ids`, and how it continues them."""
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()
    return {"ids": ids, "logits": logits, "greedy": continuation(model, ids, length)}


def show_sizes(*paths):
    for path in paths:
        print(f"{path.stat().st_size:8,} {path}", file=sys.stderr)
