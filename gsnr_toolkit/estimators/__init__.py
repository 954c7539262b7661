"""Pure functions from moments and Gram matrices to GSNR, COR and their intervals; none knows a model."""
