"""How do weights get in and out of other people's files?

    safetensors_file.py     the safetensors format
    tensor_table.py         which tensor there is which of ours: compare, read, write
    huggingface_config.py   config.json
    huggingface_folder.py   the files of a Hugging Face folder
    gpt2_huggingface.py     GPT-2 as Hugging Face keeps it
    llama_huggingface.py    Llama as Hugging Face keeps it
    gguf_file.py            the GGUF format
    llama_gguf.py           Llama as llama.cpp keeps it
    pretrained.py           a model from either
    hub.py                  a model name to a local path, downloading if necessary
    verification.py         is it the same function? every activation and gradient beside a reference's
"""
