"""GPTQ: a weight rounded column by column, the columns that are left corrected for each error."""

import numpy as np

from finetune.quantization.gptq import inverse_factor, round_columns

weight = np.array([[0.4, 0.4, -0.7], [0.9, -0.3, 0.2]])  # (O, I)
inputs = np.array([[1.0, 1.0, 0.0], [2.0, 1.9, 0.1], [0.0, 0.1, 1.0]])  # the first two are nearly equal
scales = np.full(2, 0.25)

# hessian
hessian = inputs.T @ inputs + 0.01 * np.eye(3)  # (I, I)
U = inverse_factor(hessian)

# columns
levels, errors = round_columns(weight, U, scales, None, bits=4)
nearest = np.round(weight / scales[:, None])
print(levels, nearest)
