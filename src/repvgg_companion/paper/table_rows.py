"""The rows of Tables 1 to 8, the paper's columns beside ours.

`paper_*` is printed; `recount_*` is counted by our code, with a `*_match` under the printed rounding; `ours_*` was
measured with the paper's network (accuracies: on the paper's images); `demo_*` or `small_*` belongs to other images or
a smaller shape. `note` says why a cell is empty or what is in it.
"""

from collections.abc import Callable
from functools import partial

from repvgg_companion.models.names import MODELS
from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.accuracies import accuracy_columns
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.ours import Row, traced
from repvgg_companion.paper.printed import Facts
from repvgg_companion.paper.rounding import rounded, truncated
from repvgg_companion.paper.table_columns import (
    Recount,
    kernel_columns,
    kernel_row,
    note_disturbance,
    small_speed_row,
    speed_columns,
)

NARROW, NARROW_PX = 0.125, 97
"""Width and input of the networks that certify the conversion of Table 8 where none was trained."""
# Column of Tables 4 and 5, quantity, unit, printing rule, decimals (PROTOCOL: see paper/README.md).
_COUNTS = (
    ("params_m", "params", 1e6, truncated, 2),
    ("flops_b", "flops", 1e9, rounded, 1),
    ("wino_muls_b", "wino", 1e9, rounded, 1),
)


def rows_of(evidence: Evidence, name: str) -> list[Row]:
    """The rows of `table1` to `table8`, one for each printed row, with their notes."""
    rows = []
    for fact in evidence.facts.table(name):
        notes: list[str] = []
        rows.append(TABLES[name](evidence, fact, notes) | {"note": notes})
    return rows


def _table1(evidence: Evidence, fact: Row, notes: list[str]) -> Row:
    """Kernel size against density; ours at the paper's shape, or small_* at a smaller labelled one."""
    from repvgg_companion.complexity.count_complexity import convolution_flops

    size = fact["kernel_size"]
    macs = convolution_flops(fact["batch_size"], fact["in_channels"], fact["out_channels"], fact["resolution_px"], size)
    recount = Recount(evidence.facts, "table1", size, notes)
    flops = truncated(macs / 1e9, 1)
    density = truncated(2 * flops / fact["time_ms"], 2)
    row = {
        "kernel_size": size,
        "paper_flops_b": fact["flops_b"],
        "paper_time_ms": fact["time_ms"],
        "paper_density_tflops": fact["density_tflops"],
        "recount_flops_b": flops,
        "flops_match": recount.match("flops_b", fact["flops_b"], flops),
        "recount_density_tflops": density,
        "density_match": recount.match("density_tflops", fact["density_tflops"], density),
    }
    for prefix, full in (("ours", True), ("small", False)):
        part = kernel_row(evidence.results, size, papers_shape=full)
        row |= kernel_columns(prefix, part)
        note_disturbance(f"{prefix}_time", part, notes)
        if part is None and full:
            notes.append("ours: the paper's shape was not measured; it needs a GPU")
        elif part is not None and not full:
            notes.append(f"small: {part['channels']} channels, batch {part['batch_size']}, {part['resolution_px']} px")
    return row


def _table2(_: Evidence, fact: Row, notes: list[str]) -> Row:
    """Stages: output size and 3x3 layers, recounted from the built networks."""
    from repvgg_companion.paper.structure import layers_of

    row = {f"paper_{key}": fact[key] for key in fact if key not in ("stage", "note")}
    stages = {
        name: [layer for layer in layers_of(model, "deploy") if layer.name.startswith(f"stage{fact['stage'] - 1}")]
        for name, model in (("a", "RepVGG-A1"), ("b", "RepVGG-B1"))
    }
    recount = {
        "output_size_px": stages["a"][-1].output_px,
        "repvgg_a_layers": len(stages["a"]),
        "repvgg_b_layers": len(stages["b"]),
        "first_layer_stride": stages["a"][0].stride,
    }
    matches = all(fact[key] == value for key, value in recount.items())
    row |= {f"recount_{key}": value for key, value in recount.items()}
    notes += [fact["note"]] if fact["note"] else []
    return {"stage": fact["stage"], **row, "match": "yes" if matches else "no"}


def _table3(_: Evidence, fact: Row, notes: list[str]) -> Row:
    """Variants: layers and widths of each stage, recounted from the built networks."""
    from repvgg_companion.paper.structure import layers_of

    layers = [layer for layer in layers_of(fact["model"], "deploy") if layer.kind == "conv"]
    stages = [[layer for layer in layers if layer.name.startswith(f"stage{number}")] for number in range(5)]
    row: Row = {"model": fact["model"]}
    for key, values in (
        ("layers", [len(stage) for stage in stages]),
        ("width", [stage[-1].out_channels for stage in stages]),
    ):
        row[f"paper_{key}"] = " ".join(str(fact[f"{key}_stage{number}"]) for number in range(1, 6))
        row[f"recount_{key}"] = " ".join(map(str, values))
        row[f"{key}_match"] = "yes" if row[f"paper_{key}"] == row[f"recount_{key}"] else "no"
    row |= {"paper_multiplier_a": fact["multiplier_a"], "paper_multiplier_b": fact["multiplier_b"]}
    grouped = [str(number) for number, layer in enumerate(layers, start=1) if layer.groups > 1]
    row["recount_groupwise_layers"] = " ".join(grouped) or None
    notes += [] if fact["row_origin"] == "printed" else [fact["row_origin"]]
    return row


def _performance(evidence: Evidence, fact: Row, notes: list[str], *, name: str) -> Row:
    """Tables 4 and 5: accuracy, speed, parameters, FLOPs and Wino MULs."""
    models = {fact["model"] for fact in evidence.facts.table(name)}
    row: Row = {"model": fact["model"], "paper_top1_pct": fact["top1_pct"]}
    row["paper_speed_examples_per_s"] = fact["speed_examples_per_s"]
    recount = Recount(evidence.facts, name, fact["model"], notes)
    for column, quantity, unit, rule, decimals in _COUNTS:
        try:
            value = rule(evidence.read(Quantity(quantity, fact["model"])).value / unit, decimals)
        except NotAvailable:
            value = None
        row[f"paper_{column}"] = fact[column]
        row[f"recount_{column}"] = value
        row[f"{column.rsplit('_', 1)[0]}_match"] = recount.match(column, fact[column], value)
    row |= accuracy_columns(evidence, Quantity("top1", fact["model"], (f"{fact['epochs']}-epochs",)), notes, models)
    row |= speed_columns(evidence, Quantity("speed", fact["model"]), notes)
    return row


def _table6(evidence: Evidence, fact: Row, notes: list[str]) -> Row:
    """Branch ablation: accuracy, and the speed of the model before conversion."""
    models = ablations(evidence.facts)
    row: Row = {
        "model": fact["model"],
        "identity_branch": fact["identity_branch"],
        "conv1x1_branch": fact["conv1x1_branch"],
        "paper_top1_pct": fact["top1_pct"],
        "paper_speed_without_reparam_examples_per_s": fact["speed_without_reparam_examples_per_s"],
    }
    row |= accuracy_columns(evidence, Quantity("top1", fact["model"], ("120-epochs",)), notes, models)
    row |= speed_columns(evidence, Quantity("speed", fact["model"], ("train",)), notes)
    return row


def _table7(evidence: Evidence, fact: Row, notes: list[str]) -> Row:
    """Variants of the block; what the paper leaves open is decided by us, and the note says how."""
    full, resnet_50 = (
        evidence.facts.printed(Quantity("top1", model, ("120-epochs",))) for model in ("RepVGG-B0", "ResNet-50")
    )
    models = ablations(evidence.facts)
    spec = MODELS[fact["model"]]
    notes += [f"decided by us: {spec.decision}"] if spec.decision else []
    base = full if fact["printed_in"] == "table" else resnet_50
    row: Row = {
        "model": fact["model"],
        "variant": fact["variant"],
        "paper_top1_pct": fact["top1_pct"],
        "paper_delta_points": round(fact["top1_pct"] - base, 2),
        "convertible": "yes" if spec.convertible else "no",
    }
    if not spec.convertible:
        notes.append(f"not converted: {spec.reason_not_convertible}")
    row |= accuracy_columns(evidence, Quantity("top1", fact["model"], ("120-epochs",)), notes, models)
    return row


def _table8(evidence: Evidence, fact: Row, notes: list[str]) -> Row:
    """Semantic segmentation on Cityscapes: counts at 713 px, speed, and the certificate of the conversion."""
    name = fact["model"]
    notes += [f"decided by us: {MODELS[name].decision}"] if MODELS[name].decision else []
    row: Row = {
        "model": name,
        "paper_mean_iou_pct": fact["mean_iou_pct"],
        "paper_mean_pixel_acc_pct": fact["mean_pixel_acc_pct"],
        "paper_speed_examples_per_s": fact["speed_examples_per_s"],
    }
    for column, quantity, unit, rule, decimals in _COUNTS[:2]:
        row[f"recount_{column}"] = rule(evidence.read(Quantity(quantity, name)).value / unit, decimals)
    row |= mean_iou.columns(evidence.results, name, notes)
    row |= speed_columns(evidence, Quantity("speed", name), notes)
    part = small_speed_row(evidence.results, name)
    row["small_speed_examples_per_s"] = part["examples_per_s"] if part else None
    row |= traced("small_speed", [part] if part else [])
    note_disturbance("small_speed", part, notes)
    if part:
        notes.append(f"small: {part['input_px']} px, batch {part['batch_size']}, {part['device']}")
    row |= _conversion(evidence, name, notes)
    return row


def _conversion(evidence: Evidence, name: str, notes: list[str]) -> Row:
    """Whether both forms agree: by the certificates of trained weights, else by a narrow network of random weights."""
    from repvgg_companion.paper.structure import conversion_errors

    certificates = [part for part in evidence.results.rows("reparameterization") if part["model"] == name]
    if certificates:
        error = max(part["float64_max_relative_error"] for part in certificates)
        certified = all(part["passed"] for part in certificates)
    else:
        found = conversion_errors(name, width=NARROW, input_px=NARROW_PX)
        error, certified = found.float64_max_relative, found.certified
        notes.append(f"conversion: checked on random weights and statistics at width {NARROW:g}, {NARROW_PX} px")
    return {"conversion_certified": "yes" if certified else "no", "conversion_float64_error": error}


def ablations(facts: Facts) -> set[str]:
    """The networks of Tables 6 and 7, which are compared with each other."""
    return {row["model"] for name in ("table6", "table7") for row in facts.table(name)}


TABLES: dict[str, Callable[[Evidence, Row, list[str]], Row]] = {
    "table1": _table1,
    "table2": _table2,
    "table3": _table3,
    "table4": partial(_performance, name="table4"),
    "table5": partial(_performance, name="table5"),
    "table6": _table6,
    "table7": _table7,
    "table8": _table8,
}
"""What makes the columns of a printed row, and adds to its notes."""
