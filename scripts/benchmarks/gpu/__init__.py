"""Does it work on a GPU, and how fast? What verify_gpu.py runs.

The files, in reading order:

    suite.py       the tests that run on a device
    kernels.py     each CUDA kernel beside NumPy
    training.py    the same training on the CPU and on the GPU
    speed.py       a step and generation beside PyTorch
"""
