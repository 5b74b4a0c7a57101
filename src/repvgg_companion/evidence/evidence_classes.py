"""The evidence classes of the ledger, from the paper's own print to small studies, and what each is worth."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvidenceClass:
    """One kind of evidence: its name, one letter for the page, and what it can and cannot show."""

    name: str
    letter: str
    worth: str


PRINTED = EvidenceClass(
    "printed",
    "P",
    "The claim is compared with the tables of the paper itself, or with the official README. This shows "
    "that the text follows from the tables, not that the tables are right.",
)
COUNTED = EvidenceClass(
    "counted",
    "C",
    "Arithmetic and structure, decided on the networks themselves. Exact: it needs no images and no measurement.",
)
MEASURED_HERE = EvidenceClass(
    "measured here",
    "M",
    "Speeds of the devices in results/devices, compared round by round within one run, with 95 % intervals.",
)
REEVALUATED = EvidenceClass(
    "re-evaluated by others",
    "E",
    "The authors' released weights, evaluated by other people's code. It confirms the "
    "accuracy of these weights, not that training again would give it. The interval is for new images (Wilson, 95 %).",
)
RETRAINED = EvidenceClass(
    "retrained by others",
    "T",
    "Networks trained again from scratch by others: one run each, so no interval over training seeds exists.",
)
MEASURED_BY_OTHERS = EvidenceClass(
    "measured by others",
    "O",
    "Speeds that others published for other devices. They come without an interval and not "
    "by the paper's protocol, so a verdict on the number is given and the inference is inconclusive.",
)
STUDY = EvidenceClass(
    "small study",
    "S",
    "Trainings of this companion on other images: the direction of an effect with its interval, "
    "never the paper's number.",
)
CLASSES = (PRINTED, COUNTED, MEASURED_HERE, REEVALUATED, RETRAINED, MEASURED_BY_OTHERS, STUDY)
"""In the order of the page."""

WHOLE = "whole claim"
NOTHING = "no part"
