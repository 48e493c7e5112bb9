"""A hook of mkdocs: links to files outside docs/ lead to $STREAMSER_REPOSITORY, or become plain text without it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = os.environ.get("STREAMSER_REPOSITORY", "")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Rewrite each link to a file outside docs/; a link to a file that does not exist stops the build."""
    folder = Path(page.file.abs_src_path).parent

    def rewritten(match: re.Match[str]) -> str:
        words = match[1]
        target, _, anchor = match[2].partition("#")
        file = (folder / target).resolve()
        if not file.exists():
            raise SystemExit(f"{page.file.src_path}: links to {target}, which does not exist")
        if not REPOSITORY:
            return words
        kind = "tree" if file.is_dir() else "blob"
        return f"[{words}]({REPOSITORY}/{kind}/main/{file.relative_to(ROOT).as_posix()}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)", rewritten, markdown)
