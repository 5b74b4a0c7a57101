"""The label ids and classes of Cityscapes. Label maps are PNGs of label ids; 19 classes are trained and scored."""

import numpy as np

# Label id of each class that counts, in the order of the train ids 0 to 18 (the dataset's own table, `labels.py`).
CLASSES: dict[str, int] = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
IGNORED = 255
"""The train id of every pixel that counts nowhere: void, and classes that are too rare."""
LARGEST_ID = 33


def train_ids() -> np.ndarray:
    """The train id of each label id 0 to 255, uint8 [256]; id -1 (licence plate) is stored as 255."""
    table = np.full(256, IGNORED, np.uint8)
    for number, label_id in enumerate(CLASSES.values()):
        table[label_id] = number
    return table
