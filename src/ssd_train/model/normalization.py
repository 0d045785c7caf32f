"""Pixel normalization of the networks: ImageNet statistics of RGB in 0..1, as for GluonCV's weights."""

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)
