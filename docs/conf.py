# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Settings of the documentation site, which `make docs` builds. Nothing here needs the network."""

import dataclasses
import inspect
import re
from pathlib import Path

from docutils import nodes

import ila_hf


project = "ila_hf"
author = "The ila_hf authors"
version = release = ila_hf.__version__
html_title = f"ila_hf {release}"
html_theme = "furo"
smartquotes = False  # flags begin with two hyphens; `write_dashes` sees to the dashes
exclude_patterns = ["_build"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]

# GitHub shows the same pages, with its own mathematics and anchors of headings
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings are in the style of transformers: `x` is code, [`X`] a reference, "name (B, T): ..." an argument
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_use_param = napoleon_use_rtype = False
napoleon_custom_sections = [("Args of the pipeline and of its call", "params_style")]
# Other packages have no index without the network, and our own private names no place in the reference
nitpick_ignore_regex = [
    ("py:.*", r"(PIL|(?!ila_hf\.)[a-z_]\w*)\..+"),
    ("py:.*", r"(.*\.)?_\w+"),
    ("py:exc", "StrictDataclass.*"),
    ("py:class", "LoraConfig"),
]


def own_fields(obj):
    """The fields of a dataclass that its bases do not have."""
    if not dataclasses.is_dataclass(obj):
        return []
    inherited = {name for base in obj.__mro__[1:] for name in vars(base).get("__dataclass_fields__", ())}
    return [field for field in dataclasses.fields(obj) if field.name not in inherited]


def describe_fields(app, what, name, obj, options, lines):
    """Add arguments whose description is the help of a command's flag."""
    described = [field for field in own_fields(obj) if "help" in field.metadata]
    if described:
        lines += ["Args:"]
    for field in described:
        kind = inspect.formatannotation(field.type)
        lines.append(f"    {field.name} ({kind}, defaults to {field.default}): {field.metadata['help']}")


def convert_docstring(app, what, name, obj, options, lines):
    """Write [`X`] as a reference of Sphinx and a fenced example as a block of code, before napoleon sees them."""
    text = "\n".join(lines)
    text = re.sub(r"(?m)^( *\w+) \(([^()]*, [^()]*)\), (\w+) \(\2\):", r"\1, \3 (\2):", text)  # one type for both
    text = re.sub(r"\[`~?(?:transformers|torch)\.([\w.]+)`\]", r"`\1`", text)
    text = re.sub(r"\[`~?([\w.]+)`\]", r":py:obj:`~.\1`", text)
    text = re.sub(r"(: )([A-Z]\.)(?=\s|$)", r"\1\\\2", text)  # "T." is a size here, not item 20 of a list
    fence = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    indent = re.compile("^(?=.)", re.MULTILINE)
    text = fence.sub(lambda match: f"{match[1]}.. code-block:: python\n\n{indent.sub('    ', match[2])}", text)
    lines[:] = text.split("\n")


def shorten_signature(app, what, name, obj, options, signature, return_annotation):
    """Of signatures of dozens of fields, most of them those of transformers, leave the class's own."""
    if not signature or len(signature) <= 700:
        return None
    own = [f"{field.name}={field.default!r}" for field in own_fields(obj) if field.repr and field.init]
    return (f"({', '.join([*own, '**kwargs'])})", return_annotation)


def skip_member(app, what, name, obj, skip, options):
    """Leave out what `@strict` and transformers call."""
    return True if name.startswith("validate") or name == "config_class" else None


def unlink_folders(app, page, source):
    """Folders beside docs/ are links on GitHub and have no place on the site; their names stay."""

    def replace(match):
        return match[0] if not Path(app.srcdir, match[2]).is_dir() else match[1]

    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)", replace, source[0])


def write_dashes(app, doctree):
    """Between an argument and its description Sphinx and napoleon put two hyphens."""
    for text in list(doctree.findall(nodes.Text)):
        if " -- " in text and not isinstance(text.parent, nodes.literal | nodes.literal_block):
            text.parent.replace(text, nodes.Text(text.replace(" -- ", " – ")))


def setup(app):
    app.connect("autodoc-process-docstring", describe_fields, priority=300)
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("source-read", unlink_folders)
    app.connect("doctree-read", write_dashes)
