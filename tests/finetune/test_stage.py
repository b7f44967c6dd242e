"""A new stage is one page: a function that trains. `start` and `resume` (gpt/training/run.py) do the rest."""

import dataclasses
import sys

import pytest

from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.data.datasets import Example, ShuffledBatches, batches_of, read_examples
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.stages.run_config import RunConfig
from gpt.training.checkpoint import CheckpointError
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.run import resume, start
from gpt.training.run_folder import settings_of
from gpt.training.training_config import TrainingConfig
from gpt.training.training_step import training_step
from tests.finetune.small import interrupt_at, small_chat_model
from tests.gpt.small import save_model
from tests.scripts.running import assert_same_run

WORDS = ("cat", "dog", "mat", "house")


@dataclasses.dataclass(frozen=True)
class RepeatConfig(RunConfig):
    stage = "repeat"

    data: str = "words"


def talks(config):
    if config.data != "words":
        raise ValueError("nothing to learn from")
    found = [Example([{"role": "user", "content": word}, {"role": "assistant", "content": word}]) for word in WORDS]
    return found, found[:1]


def train_repeating(run, config):
    """A new stage: the model learns to repeat a word."""
    model, tokenizer = run.model_from(lambda: load_model(config.init_from))
    data = run.data(lambda: talks(config), read_examples)
    template, block_size = ChatTemplate(tokenizer), model.config.block_size
    (train, _), (tests, _) = (encode_examples(part, template, block_size) for part in data)
    run.explain_columns("  loss  of the word that is repeated")

    def validate():
        return {"val_loss": evaluate(model, batches_of(tests, 2, collate), sft_loss)["loss"]}

    run.keep("before", lambda: validate()["val_loss"], like=0.0)
    optimizer, schedule = run.prepare(model, config.training)
    stream = ShuffledBatches(train, config.batch_size, collate, config.seed)
    with run:
        for batches in run.batches(stream, validate):
            run.record(training_step(model, batches, sft_loss, optimizer, schedule, 1.0, run.gradients))
    if not run.interrupted:
        run.extra["after"] = validate()["val_loss"]
        run.finish(f"trained {run.steps_done} steps", None)


@pytest.fixture
def settings(tmp_path):
    """settings(folder): the settings of a run of six steps."""
    model, tokenizer = small_chat_model()
    add_chat_tokens(model, tokenizer)
    base = str(save_model(tmp_path / "base", model, tokenizer))
    training = TrainingConfig(max_iters=6, learning_rate=0.02, warmup_iters=1, eval_interval=3, log_interval=1)
    whole = RepeatConfig(base, batch_size=2, seed=1, training=training)
    return lambda folder, **changes: dataclasses.replace(whole, out_dir=str(tmp_path / folder), **changes)


def test_a_new_stage_runs_stops_goes_on_and_reports(settings, tmp_path, monkeypatch, capsys):
    whole = start(train_repeating, settings("whole"))
    assert whole.extra["after"] < whole.extra["before"]
    output = capsys.readouterr().out
    assert "What the columns mean:\n  loss  of the word that is repeated\n" in output
    assert output.index("What the columns mean") < output.index("6/6 | loss") < output.index("trained 6 steps in ")

    interrupt_at(2, sys.modules[__name__], monkeypatch)
    part = start(train_repeating, settings("part"))
    assert part.interrupted and part.steps_done == part.saved_step == 2 and "after" not in part.extra
    monkeypatch.undo()
    again = resume(train_repeating, RepeatConfig, str(tmp_path / "part"))
    assert not again.interrupted and again.extra == whole.extra
    assert_same_run(tmp_path / "part", tmp_path / "whole")


def test_nothing_is_written_when_a_check_fails_and_other_runs_are_left_alone(settings, tmp_path):
    for changes, words in ({"data": "silence"}, "nothing to learn from"), ({"batch_size": 0}, "batches of 0"):
        with pytest.raises(ValueError, match=words):
            start(train_repeating, settings("run", **changes))
    assert not (tmp_path / "run").exists()
    start(train_repeating, settings("run"))
    assert settings_of(RepeatConfig, str(tmp_path / "run")) == settings("run")
    with pytest.raises(FileExistsError, match="holds a run already"):
        start(train_repeating, settings("run"))

    class OtherConfig(RepeatConfig):
        stage = "another"

    with pytest.raises(CheckpointError, match="is of the stage 'repeat', not of .*'another'"):
        resume(train_repeating, OtherConfig, str(tmp_path / "run"))
