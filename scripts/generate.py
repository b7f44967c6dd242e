"""Generate text with a trained model."""

import argparse
import sys
import time
from functools import partial
from typing import Any

from start import command_line

from gpt.console import printable, progress_bar
from gpt.model.batch_generation import stream
from gpt.model.constrained_decoding import KINDS, in_form, json_object, one_of
from gpt.model.generation import Sampling
from gpt.model.speculation import speculate
from gpt.tokenizer.token_text import TextStream
from gpt.training.loading import load_model
from scripts.shared.will_it_fit import try_generation

EXAMPLES = """examples:
  python scripts/generate.py --prompt "One day, Tom"              the model of the demo
  python scripts/generate.py --model runs/book --prompt "It was" --temperature 0 --max-new-tokens 50
  python scripts/generate.py --model gpt2 --prompt "Alan Turing"  OpenAI's GPT-2: a download of 0.5 GB, once
  python scripts/generate.py --model smollm2 --prompt "The sea is"        SmolLM2, 135 million parameters, on any laptop
  python scripts/generate.py --model ../gpt2-medium               a folder with config.json and model.safetensors
  python scripts/generate.py --model runs/demo --adapter runs/lora     a base model with a LoRA adapter
  python scripts/generate.py --model smollm2 --prompt "Ann, 31, of Rome: " --json name:string age:number
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    command_line.add_shared(parser, "model", "packed", "adapter")
    add("--prompt", default="Once upon a time", help="the text to continue")
    add("--num-samples", type=number(1), default=1, help="number of texts, generated as one batch")
    add("--max-new-tokens", type=number(0), default=200, help="number of tokens to generate per text")
    command_line.add_settings(parser, partial(Sampling, temperature=0.8, top_p=0.95))
    text = "guess the next tokens from repetitions in the text, and check several in one pass: the same text, faster"
    way = parser.add_mutually_exclusive_group().add_argument
    way("--speculate", action="store_true", help=text)
    way("--draft", metavar="MODEL", help="let a small model with the same vocabulary guess the next tokens")
    way("--one-of", nargs="+", metavar="TEXT", help="the continuation is one of these texts")
    way("--json", nargs="+", type=field, metavar="KEY:KIND", help="the continuation is a JSON object with these keys")
    text = "only load the model and try a few tokens, and print the memory and the time that the whole text needs"
    add("--will-it-fit", action="store_true", help=text)
    command_line.add_shared(parser, "kernels", "device", "seed", seed=None)
    arguments = parser.parse_args(argv)
    name = next((name for name in ("speculate", "draft", "one_of", "json") if vars(arguments)[name]), "")
    flag = "--" + name.replace("_", "-")
    if name and arguments.num_samples > 1:
        parser.error(f"{flag} is for one text: leave out --num-samples")
    if name and arguments.will_it_fit:
        parser.error(f"--will-it-fit measures one token at a time: leave out {flag}")
    if name in ("one_of", "json"):
        parser.refuse(["max_new_tokens"], "is not for a form, which ends by itself")
    if arguments.json and len(dict(arguments.json)) < len(arguments.json):
        parser.error("--json has a key twice: give each once")
    begun = time.perf_counter()
    model, tokenizer = command_line.load(arguments, device := command_line.set_up(arguments))
    loading = time.perf_counter() - begun
    prompt = tokenizer.encode(arguments.prompt)
    stop_tokens = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    sampling = command_line.build(Sampling, vars(arguments))  # raises, before anything is printed
    write: Any = speculate if arguments.speculate else stream  # several tokens in a pass, or one
    if arguments.draft:
        draft, its_tokenizer = load_model(arguments.draft)
        if (its_tokenizer.vocab, draft.config.vocab_size) != (tokenizer.vocab, model.config.vocab_size):
            raise ValueError(f"--draft {arguments.draft} has another vocabulary than --model: use one with the same")
        write = partial(speculate, draft=draft.to(device))
    if arguments.one_of or arguments.json:
        form = one_of(arguments.one_of) if arguments.one_of else json_object(dict(arguments.json))
        write = partial(stream, process=in_form(form, tokenizer))
        arguments.max_new_tokens = 10_000  # it ends sooner
    if arguments.will_it_fit:
        try_generation(model, prompt, arguments.num_samples, arguments.max_new_tokens, loading)
        return 0
    print(f"model: {arguments.model}, {model.num_parameters():,} parameters", file=sys.stderr, flush=True)
    options: dict[str, Any] = {"seed": arguments.seed, "stop_tokens": stop_tokens}
    if arguments.num_samples > 1:
        with progress_bar(arguments.max_new_tokens, "writing", "token") as bar:
            options |= {"on_token": lambda _: bar.update(1), **vars(sampling)}
            texts = model.generate([prompt] * arguments.num_samples, arguments.max_new_tokens, **options)
        for i, ids in enumerate(texts, start=1):
            print(f"--- {i} ---\n{printable(tokenizer.decode(prompt + ids, skip_special_tokens=True))}")
        return 0
    shown = TextStream(tokenizer)
    tokens = 0
    passes = 0
    print(arguments.prompt, end="", flush=True)
    for new in write(model, prompt, arguments.max_new_tokens, sampling, **options):
        print("".join(map(shown.text, new)), end="", flush=True)
        tokens, passes = tokens + len(new), passes + 1
    print(shown.rest())
    if arguments.speculate or arguments.draft:
        print(f"({tokens} tokens in {passes} passes: {tokens / max(passes, 1):.2f} tokens per pass)")
    return 0


def field(text: str) -> tuple[str, str]:
    """The key and the kind of a KEY:KIND."""
    key, _, kind = text.rpartition(":")
    if not key or kind not in KINDS:
        raise argparse.ArgumentTypeError(f"must be KEY:KIND with a KIND of {', '.join(KINDS)}, got {text!r}")
    return key, kind


if __name__ == "__main__":
    command_line.run(main)
