"""Export a trained model for other software: transformers and PEFT (a folder), or llama.cpp (a GGUF file)."""

from __future__ import annotations

from start import command_line

from gpt.weights.gguf_writing import KINDS
from scripts.shared.exporting import export

EXAMPLES = """examples:
  python scripts/export.py runs/sft exported            a folder for AutoModelForCausalLM and AutoTokenizer
  python scripts/export.py runs/lora exported           an adapter for AutoPeftModelForCausalLM, with its base model
  python scripts/export.py runs/classify exported       a classifier for AutoModelForSequenceClassification
  python scripts/export.py runs/sft exported --gguf Q8_0     exported/model.gguf, for llama.cpp
"""


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__ or "", EXAMPLES)
    parser.add_argument("run", metavar="RUN", help=command_line.SOURCES)
    parser.add_argument("folder", metavar="FOLDER", help="a new or empty folder to write into")
    text = f"write a GGUF file whose matrices are of this kind: {', '.join(KINDS)}; adapters are merged"
    parser.add_argument("--gguf", choices=KINDS, default=None, metavar="KIND", help=text)
    arguments = parser.parse_args(argv)
    print(f"written: {export(arguments.run, arguments.folder, arguments.gguf)}")
    return 0


if __name__ == "__main__":
    command_line.run(main)
