"""The checks that a claim's condition can name as `check(NAME)`; each gives a finding.

A check decides what a comparison of two quantities cannot say: structure, and statements over all networks.
"""

from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.comparable_runs import disturbing_flags
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.verdicts import (
    CONTRADICTED,
    INCONCLUSIVE,
    MET,
    NOT_MET,
    NOT_TESTED,
    OPEN,
    REPRODUCED,
    Finding,
)
from repvgg_companion.speed.measure_memory import FIGURE_3
from repvgg_companion.speed.speed_settings import PAPER_BATCH_SIZE


def decided(holds: bool, value: str, *sources: str, reason: str = "") -> Finding:
    """A finding that is exact, or measured without doubt."""
    number, inference = (MET, REPRODUCED) if holds else (NOT_MET, CONTRADICTED)
    return Finding(number, inference, value, reason=reason, evidence=sources)


def _plain_inference_body(_: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    faults = {name: structure.body_faults(name) for name in structure.PAPER_REPVGG}
    wrong = {name: found for name, found in faults.items() if found}
    value = f"{len(faults) - len(wrong)} of {len(faults)} deploy forms are 3x3 convolutions and ReLUs in one line"
    reason = "; ".join(f"{name}: {found[0]}" for name, found in wrong.items())
    return decided(not wrong, value, "trace of the deploy forms", reason=reason)


def _conversion_keeps_function(evidence: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    errors = structure.conversion_errors("RepVGG-A0")
    certificates = evidence.results.rows("reparameterization")
    failed = [row for row in certificates if not row["passed"]]
    holds = errors.certified and errors.float32_max_relative <= 1e-4 and errors.same_top1
    value = (
        f"squared sum of differences {errors.float32_squared_sum:.1e} in float32, largest relative difference "
        f"{errors.float64_max_relative:.1e} in float64; {len(certificates) - len(failed)} of {len(certificates)} "
        "certificates passed"
    )
    reason = "; ".join(f"the certificate of {row['model']} failed" for row in failed)
    sources = ["RepVGG-A0 with random weights at 224 px"]
    if certificates:
        sources.append("reparameterization.csv")
    return decided(holds and not failed, value, *sources, reason=reason)


def _winograd(_: Evidence) -> Finding:
    from repvgg_companion.complexity.layers import WINOGRAD_RATIO
    from repvgg_companion.paper import structure

    winograd, direct = structure.winograd_multiplications()
    holds = winograd * WINOGRAD_RATIO.denominator == direct * WINOGRAD_RATIO.numerator
    return decided(holds, f"{winograd}/{direct}", "one tile computed both ways")


def _operators_per_block(_: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    plain = set().union(*(structure.operators_per_block(name) for name in structure.PAPER_REPVGG))
    names = [f"ResNet-{depth}" for depth in (18, 34, 50, 101, 152)]
    residual = set().union(*(structure.operators_per_block(name) for name in names))
    value = f"RepVGG {', '.join(map(str, sorted(plain)))}; ResNet {', '.join(map(str, sorted(residual)))}"
    return decided(plain == {1} and residual == {2, 3}, value, "walk of the deploy forms")


def _residual_block_doubles_memory(evidence: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    residual, plain = structure.live_feature_maps("residual"), structure.live_feature_maps("plain")
    holds = max(residual) == 2 and max(plain) == 1 and residual[-1] == 1
    value, sources = f"{max(residual)}x vs {max(plain)}x", ["liveness in the traced blocks"]
    if measured := measured_doubling(evidence.results.rows("memory")):
        holds = holds and measured[0]
        value += f"; measured {measured[1]}"
        sources.append("memory.csv")
    return decided(holds, value, *sources)


def measured_doubling(rows: list[Row]) -> tuple[bool, str] | None:
    """Whether the feature maps double in a residual block alone, and the peaks of both; None where not measured."""
    residual, plain = (max(block_maps(rows, kind), default=0.0) for kind in ("residual", "plain"))
    if not residual or not plain:
        return None
    # 5 % admits what an allocator rounds up.
    return abs(residual - 2) <= 0.1 and abs(plain - 1) <= 0.05, f"{residual:.2f}x vs {plain:.2f}x"


def block_maps(rows: list[Row], kind: str) -> list[float]:
    """The live feature maps of `block_rows`, in units of the block's input."""
    found = block_rows(rows, kind)
    return [row["live_feature_map_mib"] / found[0]["live_feature_map_mib"] for row in found]


def block_rows(rows: list[Row], kind: str) -> list[Row]:
    """The measured rows at the four points of Figure 3.

    Of the first network of its kind: a ResNet for `residual`, the deploy form of a RepVGG for `plain`; empty where
    none was measured.
    """
    for row in rows:
        is_residual = row["model"].startswith("ResNet")
        if row["layer"] == FIGURE_3[0] and row["form"] == "deploy" and is_residual == (kind == "residual"):
            of_run = [part for part in rows if all(part[key] == row[key] for key in ("run_id", "model", "form"))]
            same = {part["layer"]: part for part in of_run}
            return [same[point] for point in FIGURE_3]
    return []


def _last_stage_is_cheap(_: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    shares = {name: structure.last_stage(name) for name in structure.PAPER_REPVGG}
    holds = all(
        share.layers == 1 and share.flops_share < 0.1 and share.params_to_stage4 < 1 for share in shares.values()
    )
    most = max(share.flops_share for share in shares.values())
    parameters = max(share.params_to_stage4 for share in shares.values())
    value = f"at most {100 * most:.1f} % of the FLOPs and {parameters:.2f} of the parameters of stage 4"
    return decided(holds, value, "walk of the deploy forms")


def _efficientnet_has_no_winograd_conv(_: Evidence) -> Finding:
    from repvgg_companion.paper import structure

    found = {name: structure.dense_winograd_layers(name) for name in ("EfficientNet-B0", "EfficientNet-B3")}
    value = ", ".join(f"{name}: {number}" for name, number in found.items())
    return decided(not any(found.values()), value, "walk of the deploy forms")


def _every_baseline_matched(evidence: Evidence) -> Finding:
    """Section 4.1: for every baseline some RepVGG is at least as fast and, within 0.05 points, as accurate."""
    unmatched: list[str] = []
    sources: list[str] = []
    flags: list[str] = []
    try:
        for table, recipe in (("table4", "120-epochs"), ("table5", "200-epochs")):
            names = [row["model"] for row in evidence.facts.table(table)]
            speeds = [Quantity("speed", name) for name in names]
            accuracies = [Quantity("top1", name, (recipe,)) for name in names]
            readings = evidence.read_together([*speeds, *accuracies])
            points = {
                name: (readings[speed].value, readings[top1].value)
                for name, speed, top1 in zip(names, speeds, accuracies, strict=True)
            }
            sources += [line for reading in readings.values() for line in reading.evidence]
            flags += evidence.disturbances(speeds)
            ours = [point for name, point in points.items() if name.startswith("RepVGG")]
            unmatched += [
                name
                for name, (speed, top1) in points.items()
                if not name.startswith("RepVGG")
                and not any(fast >= speed and exact >= top1 - 0.05 for fast, exact in ours)
            ]
    except NotAvailable as missing:
        return Finding(NOT_TESTED, NOT_TESTED, reason=str(missing))
    reason = f"no RepVGG matches {', '.join(unmatched)}" if unmatched else "no joint interval is defined"
    value, number = f"{len(unmatched)} baselines unmatched", NOT_MET if unmatched else MET
    finding = Finding(number, INCONCLUSIVE, value, reason=reason, evidence=tuple(sources), flags=tuple(flags))
    return _open_if_disturbed(finding, f"the speeds of {len(flags)} networks")


def _wino_ranks_speed(evidence: Evidence) -> Finding:
    """Section 4.1: over the networks of Table 4, Wino MULs rank the speeds better than FLOPs."""
    from scipy.stats import spearmanr

    points = proxies(evidence)
    if len(points) < 8:
        reason = f"the speeds of {len(points)} networks of Table 4 are too few for a rank correlation"
        return Finding(NOT_TESTED, NOT_TESTED, reason=evidence.why_no_speeds or reason)
    flags = evidence.disturbances(Quantity("speed", point["model"]) for point in points)
    speeds = [point["speed"] for point in points]
    by_flops = float(spearmanr(speeds, [point["flops"] for point in points]).statistic)
    by_wino = float(spearmanr(speeds, [point["wino"] for point in points]).statistic)
    number = MET if by_wino < by_flops else NOT_MET  # more work, less speed: both are negative
    reason = f"{len(points)} networks; they are no sample, so no interval is defined"
    value = f"Spearman {by_wino:.2f} (Wino MULs) vs {by_flops:.2f} (FLOPs)"
    sources = tuple(point["evidence"] for point in points)
    finding = Finding(number, INCONCLUSIVE, value, reason=reason, evidence=sources, flags=flags)
    return _open_if_disturbed(finding, f"the speeds of {len(flags)} networks")


def _open_if_disturbed(finding: Finding, what: str) -> Finding:
    if not finding.flags:
        return finding
    return replace(finding, number=OPEN, reason=f"{what} were disturbed; {finding.reason}")


def proxies(evidence: Evidence) -> list[dict[str, Any]]:
    """Speed, FLOPs and Wino MULs of the networks of Table 4 that have all three, in the order of the table."""
    points = []
    for name in (row["model"] for row in evidence.facts.table("table4")):
        try:
            speed = evidence.read(Quantity("speed", name))
            flops, wino = (evidence.read(Quantity(column, name)).value for column in ("flops", "wino"))
        except NotAvailable:
            continue
        disturbed = any(disturbing_flags(row) for row in speed.rows)
        counts = {"flops": flops, "wino": wino}
        points.append(
            {"model": name, "speed": speed.value, **counts, "evidence": speed.evidence[0], "disturbed": disturbed}
        )
    return points


def _batch_128_saturates(evidence: Evidence) -> Finding:
    """Footnote 4: with batch 128 the device is full, so batch 256 gains nothing (at most 5 % here)."""
    gains: dict[str, float] = {}
    flags = []
    for small, large in pairs_of_batches(evidence.results.rows("speed")):
        model = large["model"]
        gains[model] = max(large["examples_per_s"] / small["examples_per_s"], gains.get(model, 0.0))
        found = [*disturbing_flags(small), *disturbing_flags(large)]
        flags += [f"{model}: {', '.join(found)}"] if found else []
    if not gains:
        return Finding(NOT_TESTED, NOT_TESTED, reason="no network was measured with batch 128 and 256 in one run")
    most = max(gains, key=gains.__getitem__)
    number = MET if gains[most] <= 1.05 else NOT_MET
    reason = f"{len(gains)} networks; the paper names the GPU's utilisation, which is not measured"
    value = f"at most {gains[most]:.3f} ({most})"
    finding = Finding(number, INCONCLUSIVE, value, reason=reason, evidence=("speed.csv",), flags=tuple(flags))
    return _open_if_disturbed(finding, f"{len(flags)} measurements")


def pairs_of_batches(rows: list[Row]) -> list[tuple[Row, Row]]:
    """The fp32 speeds of each deploy form with batch 128 and with 256, in one run and setting."""
    measured = [
        row
        for row in rows
        if (row["width"], row["form"], row["precision"]) == (1, "deploy", "fp32") and row["examples_per_s"]
    ]
    same = itemgetter("run_id", "model", "backend", "memory_format", "protocol", "input_px")
    half = {same(row): row for row in measured if row["batch_size"] == PAPER_BATCH_SIZE}
    double = [row for row in measured if row["batch_size"] == 2 * PAPER_BATCH_SIZE and same(row) in half]
    return [(half[same(row)], row) for row in double]


def _no_measurement_in_paper(_: Evidence) -> Finding:
    return Finding(NOT_TESTED, NOT_TESTED, reason="there is no measurement to compare with")


CHECKS: dict[str, Callable[[Evidence], Finding]] = {
    "plain-inference-body": _plain_inference_body,
    "conversion-keeps-function": _conversion_keeps_function,
    "winograd-f2x2-3x3": _winograd,
    "operators-per-block": _operators_per_block,
    "residual-block-doubles-memory": _residual_block_doubles_memory,
    "last-stage-is-cheap": _last_stage_is_cheap,
    "efficientnet-has-no-winograd-conv": _efficientnet_has_no_winograd_conv,
    "every-baseline-matched": _every_baseline_matched,
    "wino-ranks-speed": _wino_ranks_speed,
    "batch-128-saturates": _batch_128_saturates,
    "no-measurement-in-paper": _no_measurement_in_paper,
}
