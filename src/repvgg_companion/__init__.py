"""An unofficial companion to "RepVGG: Making VGG-style ConvNets Great Again" (CVPR 2021).

Data flows one way: archive, manifest, checkpoint, deploy weights, measurements, tables, figures, claims, report.
"""

__version__ = "0.1.0"
