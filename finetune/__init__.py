"""The road after pretraining: classification, instruction tuning, preference optimisation, adapters, quantization."""

from .chat import ChatTemplate, add_chat_tokens
from .classification import classification_loss
from .dpo import dpo_loss
from .heads import GPTWithHead
from .kl import estimated_kl, exact_kl
from .logprobs import sequence_logprobs
from .ppo import gae, ppo_loss
from .reward import reward_loss
from .sft import sft_loss

__all__ = [
    "ChatTemplate",
    "GPTWithHead",
    "add_chat_tokens",
    "classification_loss",
    "dpo_loss",
    "estimated_kl",
    "exact_kl",
    "gae",
    "ppo_loss",
    "reward_loss",
    "sequence_logprobs",
    "sft_loss",
]
