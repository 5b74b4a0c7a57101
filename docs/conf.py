"""Settings of Sphinx, which builds these pages: `make docs`, then open site/index.html. Nothing is fetched."""

project = "RepVGG companion"
author = "The RepVGG companion authors"
copyright = "The RepVGG companion authors, MIT licence"
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
myst_heading_anchors = 3
# GitHub draws these diagrams; here they are shown as the text that they are.
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "alabaster"
html_theme_options = {"page_width": "72rem", "sidebar_width": "15rem", "description": "Unofficial, reproducible"}
html_static_path = ["static"]
html_show_sourcelink = False
html_show_sphinx = False
