"""A training step of the GPT on one page, with arrays that fit on the screen."""

import numpy as np

from scripts import one_page

usual = one_page.LAYERS, one_page.HEADS, one_page.WIDTH, one_page.CONTEXT
one_page.LAYERS, one_page.HEADS, one_page.WIDTH, one_page.CONTEXT = 1, 2, 4, 3
one_page.rng = np.random.default_rng(0)
p = one_page.new_weights(vocabulary=8)
text = np.array([[3, 1, 4, 1]])  # three inputs, and one token later the three targets

# forward
loss = one_page.loss_of(text, p)

# backward
loss.backward()

# update
one_page.adam(p, {}, 1, rate=0.1)
print(loss.data)
one_page.LAYERS, one_page.HEADS, one_page.WIDTH, one_page.CONTEXT = usual
