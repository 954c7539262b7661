"""The proxy GSNR: how well contrast between images and counterparts predicts the true GSNR, from forward passes alone.

``gsnr`` computes the proxy, ``check`` compares it with the truth, ``run`` does so by encoder and data set name, along
fine-tuning. The true GSNR is gsnr_toolkit's; estimators, training recipes and output do not belong here.
"""
