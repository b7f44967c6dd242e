"""How is a model changed without changing its weights?

lora.py            a trainable low-rank update added to frozen weights: the layer, and its settings
lora_slices.py     for some of the query, key and value that GPT-2 computes in one layer
targets.py         which layers of a model get an adapter
applying.py        the adapters get into a model, and out of it
merging.py         an adapter becomes a part of the weight
qlora.py           LoRA around 4-bit weights
peft_format.py     PEFT's names and layouts
adapter_files.py   save and load adapters, in a folder of their own
"""
