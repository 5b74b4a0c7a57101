"""What each cell of the tables 1 to 8 rests on: measured rows, printed values, or a count made now."""

from collections.abc import Callable

from repvgg_companion.evidence.raw_row import Basis, rows_basis
from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.accuracies import history_path, other_accuracies
from repvgg_companion.paper.claim_evidence import Evidence
from repvgg_companion.paper.grammar import NotAvailable, Quantity
from repvgg_companion.paper.ours import Row
from repvgg_companion.paper.printed import FILES, Facts
from repvgg_companion.paper.table_columns import kernel_row, small_speed_row
from repvgg_companion.paper.table_rows import ablations

NOW = "counted by this companion on the built network, when the table was made"


def cell_basis(evidence: Evidence, table: str, number: int, column: str) -> list[Basis]:
    """What the cell in row `number` (from 1) and `column` of `table` rests on."""
    fact = evidence.facts.table(table)[number - 1]
    prefix = column.partition("_")[0]
    if column.endswith("match") or prefix == "recount":
        return _recounted(evidence, table, number, column)
    if prefix in ("ours", "demo", "small", "conversion"):
        return _OURS[table](evidence, fact, column) if table in _OURS else []
    if column == "note":
        return [Basis("the note explains the other cells of its row")]
    if column == "convertible":
        return [Basis(f"the definition of {fact['model']} in repvgg_companion.models.names")]
    return [Basis(printed(evidence.facts, table, number, column.removeprefix("paper_")))]


def printed(facts: Facts, table: str, number: int, column: str) -> str:
    """The file, row and column of a printed value; of the whole row if `column` is empty."""
    fact = facts.table(table)[number - 1]
    columns = [name for name in fact if name == column] or [name for name in fact if column and name.startswith(column)]
    who = next((f"({fact[name]})" for name in ("model", "kernel_size", "stage") if name in fact), "")
    values = ", ".join(f"column {name} = {fact[name]}" for name in columns) or who
    if column == "delta_points":
        values = f"column top1_pct = {fact['top1_pct']}, less that of RepVGG-B0 or, for ResNet-50 blocks, of ResNet-50"
    where = f"Figure {table[6:]}" if table.startswith("figure") else f"Table {table[5:]}"
    return f"{facts.folder / FILES[table]}: row {number}, {values}; printed in {where} of arXiv 2101.03697v3"


def _recounted(evidence: Evidence, table: str, number: int, column: str) -> list[Basis]:
    """A recount; a match rests on the printed value and, where they differ for a known reason, on the exceptions."""
    fact = evidence.facts.table(table)[number - 1]
    stem = column.removeprefix("recount_").removesuffix("_match")
    found = []
    if column.endswith("match"):
        found.append(Basis(printed(evidence.facts, table, number, stem if stem != "match" else "")))
        row = str(fact.get("model") or fact.get("kernel_size") or "")
        known = [key for key in evidence.facts.exceptions if key[:2] == (table, row) and key[2].startswith(stem)]
        found += [Basis(f"{evidence.facts.folder / FILES['exceptions']}: row of {row}, {key[2]}") for key in known]
    if table == "table1":
        return [*found, Basis(f"arithmetic on {printed(evidence.facts, table, number, '')}")]
    name = stem.split("_")[0]
    if name not in ("params", "flops", "wino") or "model" not in fact or table == "table3":
        return [*found, Basis(NOW)]
    try:
        return [*found, *count_basis(evidence, Quantity(name, fact["model"]))]
    except NotAvailable as reason:
        return [*found, Basis(f"nothing: {reason}")]


def count_basis(evidence: Evidence, quantity: Quantity) -> list[Basis]:
    """The row of complexity.csv behind a count, or that it was counted now."""
    reading = evidence.read(quantity)
    return rows_basis("complexity", reading.rows) or [Basis(f"{NOW}: {line}") for line in reading.evidence]


def _kernels(evidence: Evidence, fact: Row, column: str) -> list[Basis]:
    row = kernel_row(evidence.results, fact["kernel_size"], papers_shape=column.startswith("ours_"))
    return rows_basis("kernel_size", [row] if row else [])


def speed_basis(evidence: Evidence, model: str, form: str) -> list[Basis]:
    """The row of a speed in the one setting that a table shows."""
    row = evidence.speeds.rows.get((model, form)) if evidence.speeds else None
    return rows_basis("speed", [row]) if row else []


def _performance(evidence: Evidence, fact: Row, column: str) -> list[Basis]:
    if column.startswith("ours_speed"):
        return speed_basis(evidence, fact["model"], "deploy")
    table = "table4" if fact["epochs"] == 120 else "table5"
    models = {row["model"] for row in evidence.facts.table(table)}
    return _top1(evidence, Quantity("top1", fact["model"], (f"{fact['epochs']}-epochs",)), models, column)


def _ablation(evidence: Evidence, fact: Row, column: str) -> list[Basis]:
    if column.startswith("ours_speed"):
        return speed_basis(evidence, fact["model"], "train")
    return _top1(evidence, Quantity("top1", fact["model"], ("120-epochs",)), ablations(evidence.facts), column)


def _top1(evidence: Evidence, quantity: Quantity, models: set[str], column: str) -> list[Basis]:
    rows = accuracy_rows(evidence, quantity, models, column.partition("_")[0])
    if "best_epoch" in column:
        return [Basis(f"{history_path(row)}: the highest value of column val_top1_pct") for row in rows]
    return rows_basis("accuracy", rows)


def accuracy_rows(evidence: Evidence, quantity: Quantity, models: set[str], prefix: str) -> tuple[Row, ...]:
    """The rows of an accuracy: `ours` on the paper's images, `demo` or `small` on others."""
    if prefix == "ours":
        try:
            return evidence.read(quantity).rows
        except NotAvailable:
            return ()
    found = other_accuracies(evidence.results, models).get(prefix)
    accuracy = found and (found.accuracies.get(quantity.subject) or found.others.get(quantity.subject))
    return accuracy.rows if accuracy else ()


def _segmentation(evidence: Evidence, fact: Row, column: str) -> list[Basis]:
    name, results = fact["model"], evidence.results
    if column.startswith("ours_speed"):
        return speed_basis(evidence, name, "deploy")
    if column == "small_speed_examples_per_s":
        row = small_speed_row(results, name)
        return rows_basis("speed", [row] if row else [])
    if column.startswith("conversion"):
        rows = [row for row in results.rows("reparameterization") if row["model"] == name]
        return rows_basis("reparameterization", rows) or [
            Basis("a conversion of random weights at a small width, made when the table was made")
        ]
    mine = [row for row in results.rows("segmentation") if row["model"] == name]
    paper = column.startswith("ours_")
    chosen = [row for row in mine if mean_iou.is_paper_segmentation(row) == paper]
    return rows_basis("segmentation", mean_iou.trainings(chosen)[0]) if chosen else []


_OURS: dict[str, Callable[[Evidence, Row, str], list[Basis]]] = {
    "table1": _kernels,
    "table4": _performance,
    "table5": _performance,
    "table6": _ablation,
    "table7": _ablation,
    "table8": _segmentation,
}
