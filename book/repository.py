"""Set the project's public address in all its files: `make repository URL=https://github.com/OWNER/NAME`.

The setting is `Repository` under `[project.urls]` in pyproject.toml. This script writes it there, and into the files that
cannot read it from there: the book's launch buttons, the set-up cell of each notebook, the README and the citation. An
empty URL unsets it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ADDRESS = re.compile(r"https://github\.com/[A-Za-z0-9-]+/[A-Za-z0-9._-]+")
COLAB = "https://colab.research.google.com"


def apply(root: Path, url: str) -> list[Path]:
    """Write `url` ("" for none) into every file of the project at `root` that names the address.

    Returns:
        The files that changed.

    Raises:
        ValueError: `url` does not have the form https://github.com/OWNER/NAME, or a file has no place for it.
    """
    url = url.removesuffix("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        raise ValueError(f"expected https://github.com/OWNER/NAME or nothing, got {url!r}")
    slug = url.removeprefix("https://github.com/")
    readme = ""
    if url:
        first = sorted((root / "book").glob("[0-9]*.ipynb"))[0].name
        readme = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{slug}/blob/main/book/{first})\n\n"
        readme += f"```bash\ngit clone {url} && cd {slug.split('/')[1]}\n```\n"
    edits = {
        "pyproject.toml": [(r'^(?:# )?Repository = ".*"$', f'Repository = "{url}"' if url else '# Repository = ""')],
        "_config.yml": [
            (r'^  url: ".*"$', f'  url: "{url}"'),
            (r'^  colab_url: ".*"$', f'  colab_url: "{COLAB if url else ""}"'),
        ],
        "README.md": [(r"(?s)<!-- address -->\n.*?<!-- /address -->", f"<!-- address -->\n{readme}<!-- /address -->")],
        "CITATION.cff": [(r'^(?:# )?repository-code: ".*"$', f'{"" if url else "# "}repository-code: "{url}"')],
    }
    for notebook in sorted((root / "book").glob("*.ipynb")):
        cell = r'"REPOSITORY = \\"[^"\\]*\\"  # filled in'
        edits[f"book/{notebook.name}"] = [(cell, f'"REPOSITORY = \\"{url}\\"  # filled in')]
    changed = []
    for name, replacements in edits.items():
        path = root / name
        old = new = path.read_text(encoding="utf-8")
        for pattern, text in replacements:
            new, count = re.subn(pattern, lambda _, text=text: text, new, flags=re.MULTILINE)
            if count != 1:
                raise ValueError(f"{path}: expected one line matching {pattern}, found {count}")
        if new != old:
            path.write_text(new, encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    try:
        for changed_file in apply(Path(__file__).parent.parent, "".join(sys.argv[1:])):
            print(f"changed {changed_file.name}")
    except ValueError as error:
        sys.exit(f"error: {error}")
