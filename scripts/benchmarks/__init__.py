"""How fast is it, and how much memory does it take, beside others? What the numbers say is in README.md.

The files, in reading order:

    sides.py, side.py    processes that take turns, and one of them
    jobs.py              the jobs on our side; torch_jobs.py, llama_cpp_jobs.py the same on the other side
    models.py            training, generation and loading of whole models
    smollm2.py           SmolLM2 writing a text
    quantized.py         generation from 8 and 4 bits
    attention.py         attention from short to long texts
    tokenizing.py        learning a vocabulary, and encoding
    techniques.py        what each technique of minigrad/kernels contributes
    picture.py           all of it in one picture
    gpu/                 the same questions on a GPU, for verify_gpu.py
"""
