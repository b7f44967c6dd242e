"""How do we read and write weights in other people's formats?

pretrained.py          load and save a model: a Hugging Face folder, or a GGUF file
gpt2_huggingface.py    GPT-2 as Hugging Face stores it: a naive loader, and the tables of settings and tensors
llama_huggingface.py   Llama as Hugging Face stores it
tensor_table.py        a table from their tensors to ours: compare, read, write
safetensors_file.py    the safetensors format
llama_gguf.py          Llama as llama.cpp stores it
gpt2_gguf.py           GPT-2 as llama.cpp stores it
gguf_file.py           read the GGUF format
gguf_writing.py        write the GGUF format
hub.py                 resolve a model name to a local path, downloading the model if necessary
"""
