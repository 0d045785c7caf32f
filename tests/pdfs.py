"""PDFs read by pypdf, which did not write them."""

from __future__ import annotations

from pathlib import Path
from typing import List

import numpy as np
from pypdf import PdfReader


def pdf_pages(path: Path) -> List[np.ndarray]:
    """Return the image of each page, RGB uint8 (H, W, 3)."""
    reader = PdfReader(path, strict=True)
    return [np.asarray(image.image) for page in reader.pages for image in page.images]
