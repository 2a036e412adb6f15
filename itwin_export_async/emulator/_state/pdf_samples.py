"""The files that PDF exports make: one empty page that bears a title."""


def pdf_file(title: str) -> bytes:
    """A PDF document of this title; equal titles give equal bytes."""
    objects = (
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]>>",
        f"<</Title<FEFF{title.encode('utf-16-be').hex()}>>>",
    )
    document = "%PDF-1.4\n"
    entries = ["0000000000 65535 f \n"]
    for number, content in enumerate(objects, start=1):
        entries.append(f"{len(document):010d} 00000 n \n")
        document += f"{number} 0 obj{content}endobj\n"
    size = len(entries)
    trailer = f"trailer<</Size {size}/Root 1 0 R/Info {size - 1} 0 R>>"
    start = len(document)
    document += f"xref\n0 {size}\n{''.join(entries)}{trailer}\nstartxref\n{start}\n%%EOF\n"
    return document.encode("ascii")
