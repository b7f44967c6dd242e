"""The skeleton of a run, seen from a stage that is as small as a stage can be."""

import dataclasses

import pytest

from finetune.data.chat_template import ChatTemplate, add_chat_tokens
from finetune.data.datasets import Example, ShuffledBatches, batches_of, read_examples
from finetune.objectives.sft import collate, encode_examples, sft_loss
from finetune.stages.stage import Stage, resume, settings_of, start
from gpt.training.checkpoint import CheckpointError, load_state
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.trainer import Trainer, TrainingConfig
from tests.finetune.small import small_chat_model
from tests.gpt.small import save_model


@dataclasses.dataclass(frozen=True)
class RepeatConfig:
    init_from: str
    out_dir: str
    seed: int = 1
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


class Repeating(Stage):
    name, config_class, columns = "repeat", RepeatConfig, "  loss  of the word that is repeated"
    read = staticmethod(read_examples)
    loss = staticmethod(sft_loss)

    def prepare(self):
        self.model, self.tokenizer = load_model(self.config.init_from)
        words = ("cat", "dog", "mat", "house")
        talks = [[{"role": "user", "content": w}, {"role": "assistant", "content": w}] for w in words]
        return {"train": [Example(talk) for talk in talks], "test": [Example(talks[0])]}

    def encode(self, data):
        template, block_size = ChatTemplate(self.tokenizer), self.model.config.block_size
        (train, _), (self.tests, _) = (encode_examples(data[n], template, block_size) for n in ("train", "test"))
        self.batches = ShuffledBatches(train, 2, collate, self.config.seed)

    def validate(self):
        return {"val_loss": evaluate(self.model, batches_of(self.tests, 2, collate), sft_loss)["loss"]}

    def measure(self):
        return {"before": self.validate()["val_loss"]}

    def report(self, trainer):
        trainer.extra_state["after"] = self.validate()["val_loss"]


@pytest.fixture
def base(tmp_path):
    model, tokenizer = small_chat_model()
    add_chat_tokens(model, tokenizer)
    save_model(tmp_path / "base", model, tokenizer)
    return str(tmp_path / "base")


def settings(base, folder):
    training = TrainingConfig(max_iters=6, learning_rate=0.02, warmup_iters=1, eval_interval=3, log_interval=1)
    return RepeatConfig(base, str(folder), training=training)


def test_a_new_stage_starts_goes_on_and_reports(base, tmp_path, monkeypatch, capsys):
    whole = start(Repeating, settings(base, tmp_path / "whole"))
    assert whole.extra_state["after"] < whole.extra_state["before"]
    output = capsys.readouterr().out
    assert "What the columns mean:\n  loss  of the word that is repeated\n" in output
    assert output.index("What the columns mean") < output.index("6/6 | loss") < output.index("trained 6 steps, ")

    step = Trainer.step

    def interrupting(trainer):
        trainer.interrupted = trainer.steps_done == 2
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", interrupting)
    part = start(Repeating, settings(base, tmp_path / "part"))
    assert part.interrupted and part.steps_done == 3 and "after" not in part.extra_state
    monkeypatch.undo()
    again = resume(Repeating, str(tmp_path / "part"))
    assert again.extra_state["before"] == whole.extra_state["before"]  # kept, not measured again
    assert again.extra_state["after"] == whole.extra_state["after"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]


def test_what_goes_wrong_leaves_nothing_and_other_runs_alone(base, tmp_path):
    class Failing(Repeating):
        def encode(self, data):
            raise ValueError("nothing to learn from")

    with pytest.raises(ValueError, match="nothing to learn from"):
        start(Failing, settings(base, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    trainer = start(Repeating, settings(base, tmp_path / "run"))
    assert settings_of(Repeating, str(trainer.out_dir)) == settings(base, tmp_path / "run")
    assert load_state(trainer.out_dir)["extra"]["stage"] == "repeat"
    with pytest.raises(FileExistsError, match="holds a run already"):
        start(Repeating, settings(base, tmp_path / "run"))
    Failing.name = "another"
    with pytest.raises(CheckpointError, match="is of the stage 'repeat', not of 'another'"):
        resume(Failing, str(trainer.out_dir))
