"""How does NumPy use a whole CPU? Blocks that fit the cache, on every core.

threads.py         one pool of threads, matrix products split among them, and a memory policy
linear.py          linear, GELU, and both as one operation
attention.py       attention in tiles, which never holds the T x S matrix
cross_entropy.py   output projection and cross-entropy, a chunk of rows at a time
layer_norm.py      layer norm and RMS norm
swiglu.py          the middle of Llama's feed-forward network
embedding.py       the backward of an embedding
adam.py            Adam(W), the gradient norm and clipping
muon.py            Muon: Newton-Schulz by way of the Gram matrix
"""
