"""Export a trained model for other software: transformers and PEFT (a folder), or llama.cpp (a GGUF file)."""

# What is written:
#
#     a language model     config.json, model.safetensors, the tokenizer
#     a classifier         the same, with the classes' names
#     adapters             the adapter, with its base model in the folder `base`, which adapter_config.json names
#
# PEFT looks for a relative path in the working directory, so the base's is absolute. Where both folders were moved,
# load the base by itself: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("FOLDER/base"), "FOLDER").
#
# A model that was tuned on conversations also says so: its chat template is in tokenizer_config.json, and the token
# that ends an answer in generation_config.json. Without it, the model's answers would not stop there.

import json
from pathlib import Path

from start import command_line

from finetune.adapters.adapter_files import save_adapter
from finetune.data.chat_template import IM_END, IM_START, ChatTemplate, resize_token_embeddings
from finetune.objectives.model_with_head import HEAD_FORMAT, save_classifier
from finetune.stages.lora_model import ADAPTER_TYPES, LoRARunConfig
from finetune.stages.merging import float_model_of
from gpt import LanguageModel, Tokenizer
from gpt.files import StrPath, read_json, write_text
from gpt.training.checkpoint import load_checkpoint, stored_model_type
from gpt.training.loading import load_model
from gpt.training.run_state import settings_of
from gpt.weights import hub
from gpt.weights.gguf_writing import KINDS, write_gguf

EXAMPLES = """examples:
  python scripts/export.py runs/sft exported            a folder for AutoModelForCausalLM and AutoTokenizer
  python scripts/export.py runs/lora exported           an adapter for AutoPeftModelForCausalLM, with its base model
  python scripts/export.py runs/classify exported       a classifier for AutoModelForSequenceClassification
  python scripts/export.py runs/sft exported --gguf Q8_0     exported/model.gguf, for llama.cpp
"""
BASE = "base"  # the folder of the base model, in that of an adapter
GGUF = "model.gguf"


def main(argv: list[str] | None = None) -> int:
    parser = command_line.parser(__doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", help=command_line.SOURCES)
    parser.add_argument("folder", metavar="FOLDER", help="a new or empty folder to write into")
    text = f"write a GGUF file whose matrices are of this kind: {', '.join(KINDS)}; adapters are merged"
    parser.add_argument("--gguf", choices=KINDS, default=None, metavar="KIND", help=text)
    arguments = parser.parse_args(argv)
    print(f"written: {export(arguments.run, arguments.folder, arguments.gguf)}")
    return 0


def export(source: StrPath, folder: StrPath, gguf_kind: str | None = None) -> str:
    """Write the model of a run, or any other that `load_model` takes, into a new folder; says what was written.

    gguf_kind: write a GGUF file with matrices in that kind of number ("F32", "F16", "Q8_0") instead; adapters are then
    merged. Raises FileExistsError where the folder is not empty, ValueError for what cannot be exported.
    """
    place, folder = hub.find(source), Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: choose another one")
    kind = stored_model_type(place)
    if kind in ADAPTER_TYPES and gguf_kind is None:
        return _export_adapters(str(place), folder)
    if kind == HEAD_FORMAT.name:
        if gguf_kind is not None:
            raise ValueError(f"{source} is a classifier or a reward model, which cannot be written as a GGUF file")
        model = load_checkpoint(place, with_optimizer=False, format=HEAD_FORMAT).model
        save_classifier(model, folder, Tokenizer.load(place))
        return f"a classifier for AutoModelForSequenceClassification, in {folder}"
    return _export(*load_model(source, trainable=True), folder, gguf_kind)


def _export(model: LanguageModel, tokenizer: Tokenizer, folder: Path, gguf_kind: str | None) -> str:
    if gguf_kind is not None:
        write_gguf(folder / GGUF, model, tokenizer, gguf_kind)
        return f"a GGUF file, {folder / GGUF}"
    model.save_pretrained(folder, tokenizer)
    _describe_chat(folder, tokenizer)
    return f"a model for AutoModelForCausalLM, in {folder}"


def _export_adapters(run: str, folder: Path) -> str:
    config, tokenizer = settings_of(LoRARunConfig, run), Tokenizer.load(run)
    base, _ = load_model(config.init_from, trainable=True)
    model = float_model_of(run)
    resize_token_embeddings(base, len(tokenizer))
    _export(base, tokenizer, folder / BASE, None)
    save_adapter(model, folder, str((folder / BASE).resolve()))
    tokenizer.save(folder)
    _describe_chat(folder, tokenizer)
    note = "; they were trained beside 4-bit weights, and are now beside float ones" if config.beside_quantized else ""
    how = f"if you move it, load {BASE} by itself and give it to PeftModel.from_pretrained"
    return f"adapters for AutoPeftModelForCausalLM, in {folder}, with their base model ({how}){note}"


def _describe_chat(folder: Path, tokenizer: Tokenizer) -> None:
    """Add the chat template, and the tokens that end an answer, where transformers looks for them."""
    if tokenizer.chat_template is not None:
        _change(folder / "tokenizer_config.json", chat_template=tokenizer.chat_template)
    chats = tokenizer.chat_template is not None or {IM_START, IM_END} <= tokenizer.special_tokens.keys()
    if chats and (folder / "generation_config.json").exists():
        _change(folder / "generation_config.json", eos_token_id=ChatTemplate(tokenizer).stop_tokens)


def _change(path: Path, **values: object) -> None:
    write_text(path, json.dumps({**read_json(path), **values}, indent=2) + "\n")


if __name__ == "__main__":
    command_line.run(main)
