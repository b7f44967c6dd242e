"""The names of the parts in GPT-2 and Llama, for code that looks into a model or changes it (structure.py).

`Names` tells which part has which name (LoRA asks for the layers to adapt). `SharedInput` tells which layers read the
same input, and which module produces that input (quantization asks).
"""

from .structure import Names, SharedInput

GPT2 = Names(
    body="transformer", embeddings=("wte", "wpe"), blocks="h", norm="ln_f",
    attention="attn", projection="attn.c_proj", mlp="mlp", lora_targets=("c_attn",),
    inputs=(
        SharedInput(("attn.c_attn",), "ln_1"),
        SharedInput(("attn.c_proj",), "attn.c_attn"),  # its last outputs, the values: the input averages them
        SharedInput(("mlp.c_fc",), "ln_2"),
        SharedInput(("mlp.c_proj",), None),  # GELU, which is between mlp.c_fc and this layer, is not linear
    ),
)  # fmt: skip

LLAMA = Names(
    body="model", embeddings=("embed_tokens",), blocks="layers", norm="norm",
    attention="self_attn", projection="self_attn.o_proj", mlp="mlp", lora_targets=("q_proj", "v_proj"),
    inputs=(
        SharedInput(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "input_layernorm"),
        SharedInput(("self_attn.o_proj",), "self_attn.v_proj"),
        SharedInput(("mlp.gate_proj", "mlp.up_proj"), "post_attention_layernorm"),
        SharedInput(("mlp.down_proj",), "mlp.up_proj"),  # silu(gate) * up is linear in up
    ),
)  # fmt: skip
