"""How Sphinx builds the site, see `make docs`. Neither building nor reading it fetches anything from elsewhere.

Sphinx, since it documents what `import fedhello` gives (names that are imported on first use, which a reader of source
text does not find), takes notebooks as they are stored, lets formulas be written as MathML with no script at all, and
makes pages, with their search, that work from a folder.
"""

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any, Literal

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

project, author = "fedhello", "the fedhello authors"
project_copyright = "Apache-2.0"
release = importlib.metadata.version("fedhello")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["images"]

# Pages link to headings as GitHub names them. A link that leads nowhere is a warning, an error for `make docs`.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_allow_space = False
myst_dmath_double_inline = False
# Notebooks are stored with what they print; the slow tests run them anew.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "class"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"fedhello {release}"
html_show_sphinx = False
html_copy_source = False


def mathml(formula: str, node: nodes.Node, display: Literal["inline", "block"]) -> str:
    """Return a formula as MathML, which browsers draw by themselves; what cannot be written so is a warning."""
    found = convert(formula, display=display)
    if "\\" in found:
        logging.getLogger(__name__).warning("no MathML for a part of %s", formula, location=node)
    return found


def inline_math(self: Any, node: nodes.math) -> None:
    """Write a formula within a line."""
    self.body.append(mathml(node.astext(), node, "inline"))
    raise nodes.SkipNode


def displayed_math(self: Any, node: nodes.math_block) -> None:
    """Write a formula on a line of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(node.astext(), node, "block") + "</div>")
    raise nodes.SkipNode


HERE = Path(__file__).parent
"""The folder of the pages."""

FROM_ROOT = {
    "README.md": "index",
    "CHANGELOG.md": "about/changelog",
    "CONTRIBUTING.md": "about/contributing",
    "SECURITY.md": "about/security",
    "examples/README.md": "about/examples",
}
"""Pages that stand elsewhere in the repository, and where the site has them."""


def as_on_the_site(app: Any, docname: str, source: list[str]) -> None:
    """Read in the pages that stand elsewhere, and lead links between the repository's files to pages of the site."""
    file = next((HERE.parent / name for name, page in FROM_ROOT.items() if page == docname), HERE / f"{docname}.md")
    if not file.exists():
        return  # a notebook, whose links stay within docs/
    if file != HERE / f"{docname}.md":
        source[0] = f"{file.read_text(encoding='utf-8')}\n{source[0]}"

    def on_the_site(link: re.Match[str]) -> str:
        target = os.path.relpath((file.parent / link[1]).resolve(), HERE.parent)
        page = HERE / f"{FROM_ROOT[target]}.md" if target in FROM_ROOT else HERE.parent / target
        return f"]({os.path.relpath(page, (HERE / docname).parent)}"

    source[0] = re.sub(r"\]\((?!https?:|#)([^)#\s]+)", on_the_site, source[0])


def setup(app: Any) -> None:
    """Tell Sphinx who writes formulas, and what is read from where."""
    app.add_html_math_renderer("mathml", (inline_math, None), (displayed_math, None))
    app.connect("source-read", as_on_the_site)


html_math_renderer = "mathml"
