"""The points of the three pictures of the ledger as rows, for the CSV file beside each."""

from collections.abc import Iterator

from repvgg_companion.errors import one_line
from repvgg_companion.evidence.accuracy_picture import accuracy_points
from repvgg_companion.evidence.figure1_others import others_panels
from repvgg_companion.evidence.from_studies import Study, judged_form
from repvgg_companion.evidence.sources import Sources
from repvgg_companion.evidence.speedups_picture import PAIRS, printed_ratio, speed_ups
from repvgg_companion.evidence.study_pairs import Pair
from repvgg_companion.evidence.study_picture import curve_of
from repvgg_companion.evidence.third_party import SPEED_FILE
from repvgg_companion.models.names import without_strides
from repvgg_companion.paper.figure_points import Axis, FigurePoint, point
from repvgg_companion.paper.printed import Facts, printed_row


def speed_up_points(sources: Sources) -> Iterator[FigurePoint]:
    """The printed ratio of each pair, and every measured one with device and setting."""
    measured = list(dict.fromkeys(speed_ups(sources.speeds, sources.devices)))
    for pair in PAIRS:
        name, label = " / ".join(pair), "times as fast (ratio of images/s)"
        printed = "; ".join(_printed_speed(sources.facts, model) for model in pair)
        yield point((name, "printed", "GTX 1080 Ti"), Axis(label, printed_ratio(sources.facts, pair)), Axis(), printed)
        for one in (part for part in measured if part.pair == pair):
            where = (name, one.lane, f"{one.device}, {one.setting}")
            yield point(where, Axis(label, one.ratio, one.interval), Axis(), one.source, disturbed=one.disturbed)


def _printed_speed(facts: Facts, model: str) -> str:
    for table in ("table4", "table5"):
        row = facts.row(table, model)
        if row is not None:
            return printed_row(facts, table, row)
    return ""


def difference_points(sources: Sources) -> Iterator[FigurePoint]:
    """Every re-evaluation and retraining, in points from the print."""
    for one in accuracy_points(sources.facts, sources.published):
        x = Axis("top-1 less the printed top-1 (points)", one.difference, one.interval)
        yield point((f"{one.model}, {one.input_px} px", one.kind, one.source), x, Axis(), one.row)


def others_points(sources: Sources) -> Iterator[FigurePoint]:
    """The networks of each panel that others measured."""
    for panel in others_panels(sources.facts, sources.speeds):
        lines = {row.model: f"paper/{SPEED_FILE} line {row.line}" for row in panel.rows}
        for one in panel.points:
            where = (one_line(panel.title), f"{one.epochs} epochs", one.model)
            x, y = Axis("speed (images/s)", one.speed), Axis("printed top-1 (%)", one.top1)
            yield point(where, x, y, f"{lines[one.model]}; {one.source}")


def pair_source(study: Study, pair: Pair) -> str:
    """`accuracy.csv NETWORK deploy, N seeds of STUDY`: the accuracies of both networks."""
    names = (pair.upper, pair.lower)
    return "; ".join(
        f"accuracy.csv {name} {judged_form(name)}, {len(study.accuracies[name])} seeds of {study.name}"
        for name in names
    )


def printed_pair_source(facts: Facts, pair: Pair) -> str:
    """Where the accuracies of both networks after 120 epochs are printed."""
    found = (facts.trained(without_strides(model)) for model in (pair.upper, pair.lower))
    return "; ".join(printed_row(facts, *one) for one in found if one)


def study_points(study: Study) -> Iterator[FigurePoint]:
    """The differences of all pairs, printed and ours, and the accuracy of each network by epoch."""
    label = "difference of top-1 (points)"
    for pair in study.pairs:
        panel, name, source = "(a) difference of top-1", f"{pair.upper} less {pair.lower}", pair_source(study, pair)
        printed = printed_pair_source(study.facts, pair)
        yield point((panel, "printed", name), Axis(label, pair.printed), Axis(), printed)
        x = Axis(label, pair.difference, (pair.span.low, pair.span.high))
        yield point((panel, "here, Welch", name), x, Axis(), source)
        if pair.paired is not None:
            x = Axis(label, pair.difference, (pair.paired.low, pair.paired.high))
            yield point((panel, "here, seed by seed", name), x, Axis(), source)
    for model in study.accuracies:
        for epoch, mean, span in zip(*curve_of(study, model), strict=True):
            y = Axis("validation top-1 (%)", mean, (span.low, span.high) if span else None)
            source = f"history.csv of {study.name} {model}, all seeds"
            yield point(("(b) accuracy by epoch", "mean over seeds", model), Axis("epoch", float(epoch)), y, source)
