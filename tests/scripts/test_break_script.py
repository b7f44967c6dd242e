"""scripts/break.py: every check finds its bug, and nothing in a healthy model; one bug is trained for real."""

import importlib

import pytest

from tests.scripts.running import output_of, run_here

broken = importlib.import_module("scripts.break")


@pytest.mark.parametrize("name", broken.BUGS)
def test_the_check_finds_the_bug_and_is_silent_without_it(name):
    bug = broken.BUGS[name]
    assert bug.check(bug) != ""
    assert bug.check(bug.beside or broken.HEALTHY) == ""


def test_a_bug_is_trained_beside_the_healthy_model(tmp_path, monkeypatch):
    monkeypatch.setattr(broken, "STEPS", 20)
    broken.healthy.cache_clear()
    shown = output_of(broken.main, "unshifted", "--out-dir", tmp_path)
    assert "healthy" in shown and "they are the inputs" in shown and (tmp_path / "unshifted.svg").exists()
    broken.healthy.cache_clear()


def test_groups_that_mix_questions_learn_more_slowly(tmp_path):
    shown = output_of(broken.main, "mixed_groups", "--out-dir", tmp_path)
    assert "a group holds answers to 8 different questions" in shown and (tmp_path / "mixed_groups.svg").exists()
    wrong, healthy = (float(word.rstrip(",")) for word in shown.split("loss")[1].split()[:3:2])
    assert wrong > healthy + 0.1


def test_attention_that_looks_at_one_token_has_no_entropy():
    bug = broken.BUGS["no_scale"]
    model = bug.model()
    spread = broken.attention_entropy(model)
    assert spread > 1.5  # at first it looks at all of up to 16 tokens
    for block in model.transformer.h:
        block.attn.c_attn.weight.data *= 20
    scaled = broken.attention_entropy(model)
    with bug.patch():
        assert broken.attention_entropy(model) < scaled < spread


@pytest.mark.slow
def test_all_bugs_do_what_they_are_known_for(tmp_path, capsys):
    assert run_here(broken.main, "all", "--out-dir", tmp_path) == 0
    table = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[-14:] if "/" in line}
    losses = {name: (float(row[1]), float(row[2])) for name, row in table.items()}
    for cheat in ("no_mask", "unshifted"):
        assert losses[cheat][0] < 0.5 * losses[cheat][1]
    for harm in ("no_residual", "flipped_sign", "no_scale"):
        assert losses[harm][0] > losses[harm][1]
