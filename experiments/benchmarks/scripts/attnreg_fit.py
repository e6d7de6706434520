"""attnreg at full width: `python attnreg_fit.py data.npz`."""

import sys

import numpy as np

from attnreg.fit import fit_attention

data = np.load(sys.argv[1])
print(fit_attention(data["A"], data["B"], rank=32).train * float(np.sum(data["B"] ** 2)))
