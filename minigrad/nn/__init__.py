"""What is a model made of? Layers are parameters with a forward pass, and modules are made of layers.

module.py                     Module: a tree of parameters and of other modules
layers.py                     Linear, Embedding, LayerNorm, RMSNorm, Dropout; GELU and other activation functions
init.py                       how weights start
activation_checkpointing.py   keep a block's input only, and compute the rest again in backward
"""

from .. import functional as functional
from . import init
from .activation_checkpointing import checkpoint_activations
from .layers import GELU, Dropout, Embedding, Identity, LayerNorm, Linear, ReLU, RMSNorm, Sigmoid, SiLU, Tanh
from .module import Module, ModuleList, Parameter, Sequential

__all__ = [
    "GELU", "Dropout", "Embedding", "Identity", "LayerNorm", "Linear", "Module", "ModuleList", "Parameter", "RMSNorm",
    "ReLU", "Sequential", "SiLU", "Sigmoid", "Tanh", "checkpoint_activations", "init",
]  # fmt: skip
