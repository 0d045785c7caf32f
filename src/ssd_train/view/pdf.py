"""A PDF of full-page pictures, written page by page.

Pillow's own writer keeps all pages in memory until the last; here only the place of each object in the file is kept, so
that ten thousand pictures need no more memory than fifteen. The format is PDF 1.4 (Adobe, third edition, chapter 3).
"""

from __future__ import annotations

import io
from typing import BinaryIO, List, Tuple

import numpy as np
from PIL import Image

_CATALOG, _PAGES, _INFO = 1, 2, 3
# a text string that starts with it is UTF-16
_BYTE_ORDER_MARK = "\ufeff"


class PdfWriter:
    """Pages added to `file` one after the other; `close` writes the table that makes it a PDF.

    `page_pt` is the size (width, height) of all pages in points of 1/72 inch.
    """

    def __init__(self, file: BinaryIO, page_pt: Tuple[float, float], title: str) -> None:
        self._file = file
        self._page_pt = page_pt
        self._title = title
        self._offsets: List[int] = [0, 0, 0]
        self._pages: List[int] = []
        self._size = 0  # written so far; a pipe could not say
        # the second line tells programs that the file is binary
        self._write(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")

    def add_page(self, image: np.ndarray, quality: int = 86) -> None:
        """A page filled by the picture `image`, RGB uint8 (H, W, 3), stored as JPEG."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
        height, width = image.shape[:2]
        kind = f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceRGB"
        picture = self._stream(f"{kind} /BitsPerComponent 8 /Filter /DCTDecode", buffer.getvalue())
        across, down = self._page_pt
        drawn = self._stream("", f"{across:g} 0 0 {down:g} 0 0 cm /P Do".encode("ascii"))
        box, parts = f"[0 0 {across:g} {down:g}]", f"<< /XObject << /P {picture} 0 R >> >>"
        page = f"<< /Type /Page /Parent {_PAGES} 0 R /MediaBox {box} /Resources {parts} /Contents {drawn} 0 R >>"
        self._pages.append(self._object(len(self._offsets) + 1, page.encode("ascii")))

    def close(self) -> None:
        """Write the list of pages, the title, and where every object is. The file itself stays open."""
        kids = " ".join(f"{page} 0 R" for page in self._pages)
        self._object(_CATALOG, f"<< /Type /Catalog /Pages {_PAGES} 0 R >>".encode("ascii"))
        self._object(_PAGES, f"<< /Type /Pages /Kids [{kids}] /Count {len(self._pages)} >>".encode("ascii"))
        self._object(
            _INFO, f"<< /Title <{(_BYTE_ORDER_MARK + self._title).encode('utf-16-be').hex()}> >>".encode("ascii")
        )
        start, size = self._size, len(self._offsets) + 1
        rows = "".join(f"{offset:010d} 00000 n \n" for offset in self._offsets)
        self._write(f"xref\n0 {size}\n0000000000 65535 f \n{rows}".encode("ascii"))
        trailer = f"<< /Size {size} /Root {_CATALOG} 0 R /Info {_INFO} 0 R >>"
        self._write(f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode("ascii"))

    def _stream(self, entries: str, content: bytes) -> int:
        opening = f"<< {entries} /Length {len(content)} >>\nstream\n".encode("ascii")
        return self._object(len(self._offsets) + 1, opening + content + b"\nendstream")

    def _object(self, index: int, content: bytes) -> int:
        """Write object `index` (the first three are reserved, later ones come in order) and remember where it is."""
        if index > len(self._offsets):
            self._offsets.append(0)
        self._offsets[index - 1] = self._size
        self._write(f"{index} 0 obj\n".encode("ascii") + content + b"\nendobj\n")
        return index

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size += len(data)
