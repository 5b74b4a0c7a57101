"""Parameters, FLOPs and Wino MULs of a network, and its structure, by walking the built module."""
