"""Direct preference optimization (DPO): a model that answers learns from pairs of replies which ones people prefer.

The idea: no reward model is needed. The reward of a reply is how much more likely training has made it, and the chosen
reply of a pair should get the higher reward:

    reward = β (ln π(reply) - ln ρ(reply))                loss = -ln σ(reward of the chosen - reward of the rejected)

π is the policy, the model being trained; ρ is the reference, the model before training; σ is the sigmoid. Training
begins with π = ρ: both rewards are 0, and the loss is ln 2. The larger β is, the less π has to move away from ρ to make
the loss small. (finetune/objectives/dpo.py)
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

SHOWN_METRICS = ("rewards/margins", "rewards/accuracies")  # metrics on the screen; log.jsonl has all


@dataclasses.dataclass(frozen=True)
class DPOConfig(Checked):
    """The settings of a DPO run. Of a file in `data`, the last tenth is held out.

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
                loss  -ln of the probability that the chosen reply is preferred, by its reward; at first ln 2 = 0.69
    rewards/margins  how much higher its reward β (ln π - ln ρ) is than that of the rejected reply; at first 0
 rewards/accuracies  how often it is higher
            pairs/s  comparisons learned from per second
              right  share of up to 100 held-out questions answered rightly, at temperature 1
          courteous  share of them answered rightly and courteously, as in the chosen replies"""


def train_dpo(run: Run, config: DPOConfig) -> None:
    """Tune an instruction-tuned language model on pairs of replies. The reference is the model before training."""
    # Load pairs of replies and the model. A resumed run finds both in its folder. A new run begins further below, when
    # ln ρ is known and can be saved with the pairs.
    if run.is_new:
        preferences, test_preferences = load_pairs(config.data, config.seed)
        model, tokenizer = load_model(config.init_from, trainable=True)
        show(f"starting from the weights in {config.init_from}, which are also the reference")
    else:
        model, tokenizer = run.load()
        preferences, test_preferences = run.load_data(read_preferences)  # with ln ρ of their replies

    # The data: pairs as tokens, in shuffled batches.
    template = ChatTemplate(tokenizer)
    pairs, shortened = encode_pairs(preferences, template, model.config.block_size)
    test_pairs, _ = encode_pairs(test_preferences, template, model.config.block_size)
    # Each reply needs ln ρ, its log-probability under the reference. The reference never changes, so a new run computes
    # ln ρ once, as the loss will compute ln π: in the precision of training, and for test pairs in float32. It keeps
    # ln ρ in its folder with the pairs.
    if run.is_new:
        run.begin(model, tokenizer)
        pairs = with_reference(model, pairs, config.batch_size, config.training.precision)
        test_pairs = with_reference(model, test_pairs, config.batch_size)
        run.keep_data(train=as_text(preferences, pairs), test=as_text(test_preferences, test_pairs))
    test_pairs = test_pairs[: run.state.max_eval_items]  # a short run tests on fewer (gpt/training/run_state.py)
    batches = ShuffledBatches(pairs, config.batch_size, pair_batch, config.seed)
    show_data("pairs of replies", pairs, test_pairs, shortened)
    run.explain_columns(COLUMNS, "pairs", SHOWN_METRICS)

    # The loss. (The two last settings belong to variants of DPO's own loss.)
    loss_fn = partial(dpo_batch_loss, beta=config.beta, kind=config.loss_type, label_smoothing=config.label_smoothing)

    # The test: the loss on held-out pairs, and the model's own answers to held-out questions.
    questions = [preference.prompt for preference in test_preferences[: run.state.max_eval_items]]
    judge = Judge(model, tokenizer, config, questions)

    def validate() -> dict[str, float]:
        metrics = evaluate(model, batches_of(test_pairs, config.batch_size, pair_batch), loss_fn, run.team)
        shown = {name: metrics[name] for name in SHOWN_METRICS}
        return {"val_loss": metrics["loss"], **shown, **run.team.once(judge.validate)}

    # Training: each step raises the reward of chosen replies above that of rejected ones.
    run.prepare(model, config.training)  # the optimizer, and the schedule of its learning rate
    model.train()
    train(run, batches, one_step(run, loss_fn), validate)  # the loop: gpt/training/training_loop.py

    # The report: replies to the same questions before training and after it.
    if not run.interrupted:
        judge.show_change()
        shares = ("rewards/accuracies", "right", "courteous")
        run.report(plot_run(run.out_dir, "Learning to prefer", "pair", shares=shares))
