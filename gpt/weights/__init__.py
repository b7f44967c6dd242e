"""How do weights get in and out of other people's files?

    pretrained.py          load and save a model: a Hugging Face folder, or a GGUF file
    gpt2_huggingface.py    GPT-2 as Hugging Face stores it: settings and tensors
    llama_huggingface.py   Llama as Hugging Face stores it
    tensor_table.py        which tensor there is which of ours: compare, read, write
    safetensors_file.py    the safetensors format
    llama_gguf.py          Llama as llama.cpp stores it
    gpt2_gguf.py           GPT-2 as llama.cpp stores it
    gguf_file.py           the GGUF format, read
    gguf_writing.py        the GGUF format, written
    hub.py                 resolve a model name to a local path, downloading the model if necessary
    verification.py        is it the same function? every activation and gradient beside a reference's
"""
