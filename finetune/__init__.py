"""The road after pretraining: classification, instruction tuning, preference optimisation, adapters, quantization."""

from .adapters import load_adapter, save_adapter
from .chat import ChatTemplate, add_chat_tokens
from .classification import classification_loss
from .dpo import dpo_loss
from .heads import GPTWithHead
from .kl import estimated_kl, exact_kl
from .logprobs import sequence_logprobs
from .lora import LoRAConfig, apply_lora, merge_lora, unmerge_lora
from .ppo import gae, ppo_loss
from .qlora import apply_qlora
from .quantization import QuantizationConfig, quantize
from .reward import reward_loss
from .sft import sft_loss

__all__ = [
    "ChatTemplate",
    "GPTWithHead",
    "LoRAConfig",
    "QuantizationConfig",
    "add_chat_tokens",
    "apply_lora",
    "apply_qlora",
    "classification_loss",
    "dpo_loss",
    "estimated_kl",
    "exact_kl",
    "gae",
    "load_adapter",
    "merge_lora",
    "ppo_loss",
    "quantize",
    "reward_loss",
    "save_adapter",
    "sequence_logprobs",
    "sft_loss",
    "unmerge_lora",
]
