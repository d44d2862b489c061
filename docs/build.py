"""Makes a static site of the pages: python -m docs.build SITE. Links between pages and pictures keep working.

python -m docs.build --refresh debug.md      runs a page's blocks in the current folder and renews what they printed
"""

from __future__ import annotations

import html
import pathlib
import re
import shutil
import sys

from markdown_it import MarkdownIt

from docs.blocks import pages, refreshed

DOCS = pathlib.Path(__file__).parent
_PICTURES = ("*.png", "*.svg")
_STYLE = (DOCS / "site.css").read_text()


def build(site: pathlib.Path) -> list[pathlib.Path]:
    """Write every page as HTML and copy pictures; the files written."""
    written = []
    for page in pages(DOCS):
        place = page.relative_to(DOCS)
        target = site / place.with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rendered(page.read_text(encoding="utf-8"), "../" * (len(place.parts) - 1)), encoding="utf-8")
        written.append(target)
    for pattern in _PICTURES:
        for picture in DOCS.rglob(pattern):
            target = site / picture.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, target)
            written.append(target)
    return written


def rendered(text: str, up: str) -> str:
    """One page; `up` leads to the top folder."""
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), "qonnx")
    body = (
        MarkdownIt("commonmark", {"html": False}).enable("table").render(re.sub(r"<!--.*?-->\n?", "", text, flags=re.S))
    )
    body = re.sub(r'href="([^":]+)\.md(#[^"]*)?"', r'href="\1.html\2"', body)
    body = re.sub(r'<a href="[^"]*\.\./examples/[^"]*">(.*?)</a>', r"<code>\1</code>", body)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<nav><a href="{up}index.html">qonnx</a></nav>\n<main>\n{body}</main>\n</html>\n'
    )


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--refresh"]:
        for name in arguments[1:]:
            path = DOCS / name
            path.write_text(refreshed(path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if len(arguments) != 1:
        print("usage: python -m docs.build SITE | --refresh PAGE …", file=sys.stderr)
        return 2
    print(f"{len(build(pathlib.Path(arguments[0])))} files in {arguments[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
