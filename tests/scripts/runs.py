"""Small runs of every script that trains: their command lines, with {} for the folder of the fixture `given`."""

import pytest

from finetune.stages import cold_start
from scripts import classify, dpo, grpo, lora, ppo, reward, sft, train
from tests.finetune.small import few_items
from tests.scripts.running import SMALL_RUN, run_here

RHYTHM = " --max-iters 4 --batch-size 2 --eval-interval 2 --log-interval 1 --warmup-iters 1"
SMALL = " ".join(["--data {}/story.txt", *SMALL_RUN])
ADAPTERS = "--init-from {}/base --data {}/story.txt" + RHYTHM
CHAINS = "--init-from {}/chat --terms 4 --total-iterations 2 --eval-interval 1 --num-mini-batches 2 --response-length 4"

RUNS = {
    "train": (train, SMALL + " --max-iters 4 --gradient-accumulation-steps 2"),
    "train in bfloat16": (train, SMALL + " --max-iters 2 --precision bfloat16"),
    "sft": (sft, "--init-from {}/base --data {}/alpaca.json" + RHYTHM),
    "reward": (reward, "--init-from {}/chat --data {}/pairs.jsonl" + RHYTHM),
    "dpo": (dpo, "--init-from {}/chat --data {}/few-pairs.jsonl --learning-rate 3e-3" + RHYTHM),
    "ppo": (ppo, "--init-from {}/chat --reward-model {}/reward --data {}/questions.jsonl --total-iterations 2"
                 " --batch-size 4 --response-length 4 --eval-interval 1"),
    "grpo": (grpo, CHAINS + " --batch-size 2 --num-generations 2"),
    "grpo, control": (grpo, CHAINS + " --control"),
    "lora": (lora, ADAPTERS + " --r 2"),
    "lora, full": (lora, ADAPTERS + " --method full"),
    "lora, dropout": (lora, ADAPTERS + " --lora-dropout 0.1"),
    "lora, quantized": (lora, ADAPTERS + " --r 2 --method qlora --init-from {}/wide"),
    "classify": (classify, "--init-from {}/base --data {}/pets.tsv --language {}/story.txt" + RHYTHM),
}  # fmt: skip


def arguments_of(name, given):
    """The command line of a run."""
    return [part.format(given) for part in RUNS[name][1].split()]


def run_on(device, name, given, out_dir, *more):
    """Start a run on a device, with few questions, and return its exit status."""
    common = ["--out-dir", out_dir, "--device", device, "--kernels", "textbook", "--seed", "1", *more]
    with pytest.MonkeyPatch.context() as patch:
        few_items(patch, cold_start, WORKED_EXAMPLES=40, TRAIN_ITEMS=40, TEST_ITEMS=8)
        return run_here(RUNS[name][0].main, *arguments_of(name, given), *common)
