"""A run of direct preference optimization: from a model that answers to a model that answers as people prefer.

    loss = -ln σ(β [(ln π(chosen) - ln ρ(chosen)) - (ln π(rejected) - ln ρ(rejected))])    (finetune/objectives/dpo.py)

π is the policy, the model being trained; ρ is the reference, the model before training; σ is the sigmoid. The loss is
small if π prefers the chosen reply more strongly than ρ does. The larger β is, the less π has to change to make it so.
"""

from __future__ import annotations

import dataclasses
from functools import partial

from gpt.console import show
from gpt.settings import Checked, nested, setting
from gpt.training.evaluation import evaluate
from gpt.training.loading import load_model
from gpt.training.plots import plot_run
from gpt.training.run import Run
from gpt.training.training_config import TrainingConfig
from gpt.training.training_loop import one_step, train

from ..built_in.tasks import TASKS
from ..data.chat_template import ChatTemplate
from ..data.datasets import ShuffledBatches, batches_of, read_preferences, show_data
from ..data.pairs import encode_pairs, pair_batch
from ..evaluation.judge import Judge
from ..objectives.dpo import BETA, KINDS, as_text, dpo_batch_loss, with_reference
from .reward import SOURCES, load_pairs

SHOWN = ("rewards/margins", "rewards/accuracies")  # metrics on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class DPOConfig(Checked):
    """The settings of a DPO run. data: for `read_preferences`; the last tenth of a file is held out.

    beta, loss_type, label_smoothing: see `dpo.dpo_loss`. Raises ValueError for a value that it does not accept.
    """

    stage = "dpo"

    init_from: str = "runs/sft"
    data: str = setting(TASKS, SOURCES)
    out_dir: str = "runs/dpo"
    batch_size: int = setting(32, "pairs per batch", "in [1, 65536]")
    seed: int = 1337
    training: TrainingConfig = nested(
        TrainingConfig, max_iters=60, learning_rate=1e-4, warmup_iters=10, weight_decay=0.0, eval_interval=20
    )
    beta: float = setting(BETA, "strength of the penalty for moving away from the reference model", "> 0")
    loss_type: str = setting("sigmoid", "loss function; see finetune/objectives/dpo.py", choices=KINDS)
    label_smoothing: float = setting(0.0, "expected share of wrong labels, for the loss robust", "in [0, 0.5)")


COLUMNS = """\
                loss  -ln of the probability that the model, as a reward model, gives to the preference; at first ln 2
    rewards/margins  how much more than the reference it prefers the chosen reply: beta times nats
 rewards/accuracies  how often it does
            pairs/s  comparisons learned from per second
              right  share of up to 100 held-out questions answered rightly, at temperature 1
          courteous  share of them answered rightly and courteously, as in the chosen replies"""


def train_dpo(run: Run, config: DPOConfig) -> None:
    """Tune an instruction-tuned language model on pairs of replies. The reference is the model before training."""
    # The model, and pairs of replies. A new run is saved further down, once ρ is known.
    if run.is_new:
        preferences, held_out = load_pairs(config.data, config.seed)
        model, tokenizer = load_model(config.init_from, trainable=True)
        show(f"starting from the weights in {config.init_from}, which are also the reference")
    else:
        model, tokenizer = run.load()
        preferences, held_out = run.load_data(read_preferences)  # they contain ln ρ
    template = ChatTemplate(tokenizer)
    pairs, shortened = encode_pairs(preferences, template, model.config.block_size)
    tests, _ = encode_pairs(held_out, template, model.config.block_size)

    # The reference: ln ρ of each reply. The reference never changes, so a new run computes ln ρ once, in the precision
    # of training, and keeps it with the pairs in its folder. (Test pairs are computed in float32.)
    if run.is_new:
        run.begin(model, tokenizer)
        pairs = with_reference(model, pairs, config.batch_size, config.training.precision)
        tests = with_reference(model, tests, config.batch_size)
        run.keep_data(train=as_text(preferences, pairs), test=as_text(held_out, tests))
    tests = tests[: run.state.max_eval_items]
    batches = ShuffledBatches(pairs, config.batch_size, pair_batch, config.seed)
    show_data("pairs of replies", pairs, tests, shortened)
    run.explain_columns(COLUMNS, "pairs", SHOWN)

    # The loss: the reward of a reply is β (ln π - ln ρ), and the chosen reply should get the higher one.
    loss_fn = partial(dpo_batch_loss, beta=config.beta, kind=config.loss_type, label_smoothing=config.label_smoothing)

    # The test: the loss on held-out pairs, and the model's own answers to held-out questions.
    questions = [preference.prompt for preference in held_out[: run.state.max_eval_items]]
    judge = Judge(model, tokenizer, config, questions)

    def validate() -> dict[str, float]:
        metrics = evaluate(model, batches_of(tests, config.batch_size, pair_batch), loss_fn, run.team)
        shown = {name: metrics[name] for name in SHOWN}
        return {"val_loss": metrics["loss"], **shown, **run.team.once(judge.validate)}

    # Training: each step raises the margin, β x difference of ln π - ln ρ between the two replies.
    run.prepare(model, config.training)
    model.train()
    train(run, batches, one_step(run, loss_fn), validate)

    # The report: replies of the model before training and after it.
    if not run.interrupted:
        judge.show_change()
        shares = ("rewards/accuracies", "right", "courteous")
        run.report(plot_run(run.out_dir, "Learning to prefer", "pair", shares=shares))
