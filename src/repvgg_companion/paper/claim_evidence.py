"""What a verdict may rest on: the printed facts, our results, and the one run whose speeds are compared."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from repvgg_companion.paper import mean_iou
from repvgg_companion.paper.comparable_runs import ComparableRun, comparable_runs, widest
from repvgg_companion.paper.grammar import NotAvailable, Quantity, Term
from repvgg_companion.paper.ours import Reading, Results, Row, accuracy_groups, accuracy_reading, count
from repvgg_companion.paper.printed import Facts


@dataclass(frozen=True)
class Evidence:
    """The facts, our results, and the run and setting of the speeds; without speeds, the reason why not."""

    facts: Facts
    results: Results
    speeds: ComparableRun | None = None
    why_no_speeds: str = ""

    @classmethod
    def shown(cls, facts: Facts, results: Results) -> "Evidence":
        """The evidence that tables and figures show: the speeds of the widest setting."""
        speeds = widest(results)
        measured = any(row["examples_per_s"] is not None for row in results.rows("speed"))
        why = "no speed was measured" + (" at the paper's width and input size" if measured else "")
        return cls(facts, results, speeds, "" if speeds else why)

    def read(self, quantity: Quantity) -> Reading:
        """Our value of a quantity; raises NotAvailable with the reason if there is none."""
        return self.read_together([quantity])[quantity]

    def read_together(self, quantities: Sequence[Quantity]) -> dict[Quantity, Reading]:
        """Our values of the quantities of one comparison.

        Accuracies that are compared share dataset, width, recipe, and evaluation protocol, except for the input size
        that belongs to each network. Raises NotAvailable if a value is missing or no such set of rows exists.
        """
        groups = {quantity: self._accuracy_groups(quantity) for quantity in quantities if quantity.is_accuracy}
        chosen = _comparable(groups)
        if len(chosen) < len(groups):
            kinds = {quantity: _kind(quantity, found[0]) for quantity, found in groups.items()}
            told = "; ".join(
                f"{quantity.subject}: {', '.join(str(part) for part in kind if part)}"
                for quantity, kind in kinds.items()
            )
            raise NotAvailable(f"the accuracies are not comparable, because recipe or protocol differ ({told})")
        return {
            quantity: accuracy_reading(quantity, chosen[quantity]) if quantity in chosen else self._other(quantity)
            for quantity in quantities
        }

    def comparable_accuracies(self, quantities: Sequence[Quantity]) -> dict[Quantity, list[Row]]:
        """The rows of those accuracies among `quantities` that were measured and may be compared with each other."""
        groups = {}
        for quantity in quantities:
            with contextlib.suppress(NotAvailable):
                groups[quantity] = self._accuracy_groups(quantity)
        return _comparable(groups)

    def disturbances(self, quantities: Iterable[Quantity]) -> tuple[str, ...]:
        """What disturbed the speeds of `quantities` beyond the limits of their measurement."""
        return self.speeds.disturbances(quantities) if self.speeds else ()

    def _accuracy_groups(self, quantity: Quantity) -> list[list[Row]]:
        if quantity.name == "miou":
            return mean_iou.groups(self.results, quantity.subject)
        return accuracy_groups(self.results, self.facts, quantity)

    def _other(self, quantity: Quantity) -> Reading:
        if not quantity.is_speed:
            return count(self.results, quantity)
        if self.speeds is None:
            raise NotAvailable(self.why_no_speeds)
        return self.speeds.read(quantity)


def _comparable(groups: dict[Quantity, list[list[Row]]]) -> dict[Quantity, list[Row]]:
    """One group of rows for each quantity, all of one kind: the kind that covers the most, the best rows first."""
    by_kind: dict[tuple, dict[Quantity, list[Row]]] = {}
    for quantity, found in groups.items():
        for rows in found:
            by_kind.setdefault(_kind(quantity, rows), {}).setdefault(quantity, rows)
    return max(by_kind.values(), key=len, default={})


def _kind(quantity: Quantity, rows: list[Row]) -> tuple:
    """What accuracies must share; a claim that names the recipe has already chosen the rows of that recipe."""
    row = rows[0]
    protocol = row["protocol"].split("-")
    sizes_left_out = "-".join(part for part in protocol if not part.startswith(("resize", "crop")))
    return (row["dataset"], f"width {row['width']:g}", None if quantity.recipe else row["recipe"], sizes_left_out)


def evidence_for(facts: Facts, results: Results, terms: Sequence[Term]) -> list[Evidence]:
    """The evidence for each comparable setting of the speeds; one without speeds if none are needed or none exist."""
    if not any(term.of_speeds for term in terms):
        return [Evidence(facts, results)]
    found, why = comparable_runs(results, [part for term in terms for part in term.quantities if part.is_speed])
    return [Evidence(facts, results, run) for run in found] or [Evidence(facts, results, None, why)]
