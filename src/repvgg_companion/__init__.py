"""An unofficial companion to "RepVGG: Making VGG-style ConvNets Great Again" (CVPR 2021).

Data flows one way: archive, manifest, checkpoint, deploy weights, measurements, tables, figures, claims, report.
From Python, `import repvgg_companion as rc` gives `rc.load`, `rc.build`, `rc.convert`, `rc.certify`, `rc.transform`,
`rc.class_names` and `rc.RepVGGBlock` (see `api.py`).
"""

from typing import Any

__version__ = "0.1.0"

_FROM_API = ("RepVGGBlock", "build", "certify", "class_names", "convert", "load", "transform")


def __getattr__(name: str) -> Any:
    """The names of `api.py`, imported at first use: the verbs start without torch."""
    if name in _FROM_API:
        from repvgg_companion import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM_API])
