"""What is a model made of? Layers, which are parameters with a forward pass.

    module.py   Module: a tree of parameters and of other modules
    layers.py   Linear, Embedding, LayerNorm, RMSNorm, Dropout; GELU and the other activation functions
    init.py     how weights start
"""

from . import init
from .layers import GELU, Dropout, Embedding, LayerNorm, Linear, ReLU, RMSNorm, Sigmoid, SiLU, Tanh
from .module import Module, ModuleList, Parameter, Sequential

__all__ = [
    "GELU",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "init",
]
