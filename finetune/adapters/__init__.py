"""How is a model changed without changing its weights?

lora.py            a trainable low-rank update added to frozen weights
targets.py         which layers get one
qlora.py           LoRA around 4-bit weights
peft_format.py     PEFT's names and layouts
adapter_files.py   save and load adapters, in a folder of their own
"""
