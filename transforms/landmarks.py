"""The five-point landmark template of aligned face crops, and the one size every image here has."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE: Final = 112

#: float32 [5, 2], (x, y) in pixels of a 112 x 112 crop, pixel centers on integers: left eye, right eye, nose tip,
#: left and right mouth corner, as the viewer sees them. ArcFace's template (Deng et al., CVPR 2019, arXiv:1801.07698).
TEMPLATE: Final[NDArray[np.float32]] = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
TEMPLATE.flags.writeable = False
