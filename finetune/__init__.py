"""How does a language model become an assistant? In reading order:

data/              conversations, chat templates, preference pairs
built_in/          tasks whose answers code can check: what can be learned without data of your own
objectives/        what is minimized: classification, SFT, reward model, DPO, PPO, GRPO, distillation
adapters/          LoRA and QLoRA: a model changed without changing its weights
quantization/      weights in 8 or 4 bits
loading.py         quantized folders and runs of adapters, for `load_model`; an adapter for a base model
evaluation/        how good are the answers?
stages/            a run of each stage
"""

from . import loading as loading  # registers more kinds of folders that load_model accepts
from .adapters.adapter_files import load_adapter, save_adapter
from .adapters.applying import apply_lora
from .adapters.lora import LoRAConfig
from .adapters.merging import merge_lora, unmerge_lora
from .adapters.qlora import apply_qlora
from .data.chat_template import ChatTemplate, add_chat_tokens
from .objectives.classification import classification_loss
from .objectives.dpo import dpo_loss
from .objectives.grpo import group_advantages, grpo_loss
from .objectives.logprobs import estimated_kl, exact_kl, sequence_logprobs
from .objectives.model_with_head import ModelWithHead
from .objectives.ppo import gae, ppo_loss
from .objectives.reward import reward_loss
from .objectives.sft import sft_loss
from .quantization import QuantizationConfig, quantize

__all__ = [
    "ChatTemplate", "LoRAConfig", "ModelWithHead", "QuantizationConfig", "add_chat_tokens", "apply_lora",
    "apply_qlora", "classification_loss", "dpo_loss", "estimated_kl", "exact_kl", "gae", "group_advantages",
    "grpo_loss", "load_adapter", "merge_lora", "ppo_loss", "quantize", "reward_loss", "save_adapter",
    "sequence_logprobs", "sft_loss", "unmerge_lora",
]  # fmt: skip
