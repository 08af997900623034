"""Making a trained network small: pruning, distillation, quantisation, and what each saves."""

import logging

for _name in ("torchao", "torch.utils._pytree"):  # on every import they tell of GPU kernels and of each other
    logging.getLogger(_name).setLevel(logging.ERROR)
