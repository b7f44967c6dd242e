"""Let a trained model write."""

from __future__ import annotations

import codecs

from gpt import Tokenizer, command_line
from gpt.checkpoint import load_run
from gpt.progress import progress_bar
from gpt.run_log import printable

EXAMPLES = """examples:
  python scripts/generate.py --prompt "The"                       the model that the demo has trained
  python scripts/generate.py --model runs/book --prompt "It was" --temperature 0 --max-new-tokens 50
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    add, number = parser.add_argument, command_line.whole_number
    add("--model", default="runs/demo", help="a run's folder")
    add("--prompt", default="The", help="what to continue")
    add("--max-new-tokens", type=number(0), default=200, help="per text")
    add("--num-samples", type=number(1), default=1, help="texts, written at once")
    add("--temperature", type=float, default=0.8, help="0: always the most likely token")
    add("--top-k", type=number(1), default=None, help="only among the k most likely")
    add("--top-p", type=float, default=0.95, help="only among the most likely that have this probability together")
    add("--repetition-penalty", type=float, default=1.0, help="above 1: avoid what is there already")
    add("--stop", default=None, metavar="TOKEN", help="end at this token, besides the tokenizer's end of text")
    command_line.add_kernels(parser)
    command_line.add_device(parser)
    command_line.add_seed(parser, default=None)
    arguments = parser.parse_args(argv)
    device = command_line.set_up(arguments)
    model, tokenizer = load_run(arguments.model)
    model.to(device)

    prompt = tokenizer.encode(arguments.prompt)
    if not prompt:
        raise ValueError("--prompt is empty: give at least one character to continue")
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
    options = {name: getattr(arguments, name) for name in names}
    options["stop_tokens"] = _stop_tokens(tokenizer, arguments.stop)
    if arguments.num_samples == 1:
        writer = _Writer(tokenizer, arguments.prompt)
        model.generate([prompt], arguments.max_new_tokens, on_token=writer.write, **options)
        writer.end()
        return 0
    with progress_bar(arguments.max_new_tokens, "writing", "token") as bar:
        prompts = [prompt] * arguments.num_samples
        texts = model.generate(prompts, arguments.max_new_tokens, on_token=lambda _: bar.update(1), **options)
    for i, ids in enumerate(texts, start=1):
        print(f"--- {i} ---\n{printable(tokenizer.decode(prompt + ids, skip_special_tokens=True))}")
    return 0


def _stop_tokens(tokenizer: Tokenizer, text: str | None) -> list[int]:
    stop = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if text is not None:
        ids = tokenizer.encode(text)
        if len(ids) != 1:
            raise ValueError(f"--stop {text!r} is {len(ids)} tokens, not one")
        stop.append(ids[0])
    return stop


class _Writer:
    """Prints tokens as they come; a character whose bytes are spread over several tokens waits for its last one."""

    def __init__(self, tokenizer: Tokenizer, prompt: str):
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        print(prompt, end="", flush=True)

    def write(self, tokens: list[int]) -> None:
        if tokens[0] >= 0 and tokens[0] not in self.tokenizer.special_tokens.values():
            print(printable(self.decoder.decode(self.tokenizer.decode_bytes(tokens))), end="", flush=True)

    def end(self) -> None:
        print(self.decoder.decode(b"", final=True))


if __name__ == "__main__":
    command_line.run(main)
