"""Files of the repository that pages link to, such as kept pictures: they join the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"(?<=\]\()\.\./(?=\w)")  # of a page in docs/, to what lies beside docs/


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files that links of pages in ``docs`` lead to."""
    pages = [file for file in files.documentation_pages() if "/" not in file.src_uri]
    for page in pages:
        for link in re.findall(_LINK.pattern + r"([^)\s#]+)", page.content_string):
            if (ROOT / link).is_file() and link not in files.src_uris:
                files.append(File.generated(config, link, abs_src_path=str(ROOT / link)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links lead to where the files are in the site."""
    return markdown if "/" in page.file.src_uri else _LINK.sub("", markdown)
