"""Every row of the committed ledger against a second, naive evaluation of the files that it names."""

import csv
import math
import re
import statistics
from functools import cache
from pathlib import Path

import pytest

from repvgg_companion.complexity.count_complexity import count_model

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "paper"
SPREAD = 0.25
QUANTITY = re.compile(r"\b(top1|miou|speed|density|params|flops|wino|members|layers)\(([^()]*)\)")


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


LEDGER = table(ROOT / "results" / "reference" / "ledger.csv")
CLAIMS = {claim["id"]: claim for claim in table(PAPER / "claims.csv")}
PRINTED = {name: table(PAPER / file) for name, file in {
    "1": "table1_kernel_size.csv", "4": "table4_120epochs.csv", "5": "table5_200epochs.csv",
    "6": "table6_branch_ablation.csv", "7": "table7_variants_ablation.csv", "8": "table8_cityscapes.csv",
    "released": "released_checkpoints.csv",
}.items()}  # fmt: skip


def rows_of(evidence_class: str) -> list[dict[str, str]]:
    return [row for row in LEDGER if row["evidence_class"] == evidence_class]


def terms_of(claim: dict[str, str], column: str = "condition") -> list[str]:
    """The terms of a condition, the recipe after '@' written into every top1 that names none."""
    body, _, recipe = (claim[column] or claim["condition"]).partition("@")

    def with_recipe(match: re.Match) -> str:
        words = [word.strip() for word in match[2].split(",")]
        if match[1] == "top1" and recipe and not any(word.endswith("-epochs") for word in words):
            words.append(recipe.strip())
        return f"{match[1]}({', '.join(words)})"

    return [QUANTITY.sub(with_recipe, term.strip()) for term in re.split(r"\s+and\s+", body)]


def plain(term: str) -> str:
    """A term as the claim writes it, for comparison with the column `part`."""
    return re.sub(r", (120|200)-epochs\)", ")", term)


@cache
def counted(name: str, model: str, form: str, input_px: int | None = None) -> float:
    found = count_model(model, form=form, input_px=input_px)
    return float({"params": found.params, "flops": found.flops, "wino": found.wino_muls}[name])


def exact(name: str, model: str, words: list[str]) -> float | None:
    if name in ("params", "flops", "wino"):
        return counted(name, model, "train" if "train" in words else "deploy")
    if name == "members":
        branches = 2 if "residual" in model else 3
        blocks = 8 if "residual" in model else 15
        return float(branches**blocks * (1 if "residual" in model else 2))
    return 69.0 if (name, model, words) == ("layers", "ResNet-101", ["14x14"]) else None


def value_of(term: str, find) -> tuple[float, float, list[str]] | None:
    """Both sides of a comparison with one operator; None where a quantity has no number."""
    missing = []

    def number(match: re.Match) -> str:
        model, *words = (part.strip() for part in match[2].split(","))
        found = find(match[1], model, words)
        missing.extend([match[0]] if found is None else [])
        return repr(found)

    text = QUANTITY.sub(number, term)
    if missing or "check(" in text:
        return None
    names = {"trunc": lambda value, digits=0: math.floor(value * 10**digits + 1e-7) / 10**digits}
    sides = re.split(r"<=|>=|<|>|=", text)
    return [eval(side, names) for side in sides], re.findall(r"<=|>=|<|>|=", text)


def verdict(term: str, find, tolerance: float = 0.0, spread: float = 0.0) -> str | None:
    """`met`, `not met` or `open` by the difference of both sides, widened by `spread`; None where it is undecided."""
    found = value_of(term, find)
    if found is None:
        return None
    values, symbols = found
    results = []
    for left, symbol, right in zip(values, symbols, values[1:]):
        gap = left - right if symbol in (">", ">=", "=") else right - left
        margin = (tolerance if symbol == "=" else 0.0) + 1e-9 * max(1.0, abs(right))
        if symbol == "=":
            inside, outside = abs(gap) + spread <= margin, abs(gap) - spread > margin
        elif symbol in (">=", "<="):
            inside, outside = gap - spread >= 0, gap + spread < 0
        else:
            inside, outside = gap - spread > 0, gap + spread <= 0
        results.append("met" if inside else "not met" if outside else "open")
    return joined(results)


def joined(verdicts: list[str]) -> str:
    return next(word for word in ("not met", "open", "met") if word in verdicts)


def is_count(term: str) -> bool:
    names = {name for name, _ in QUANTITY.findall(term)}
    return bool(names) and names <= {"params", "flops", "wino", "members", "layers"}


def spearman(first: list[float], second: list[float]) -> float:
    def ranks(values: list[float]) -> list[float]:
        return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
                for value in values]  # fmt: skip

    a, b = ranks(first), ranks(second)
    mean = (len(a) + 1) / 2
    covariance = sum((x - mean) * (y - mean) for x, y in zip(a, b))
    return covariance / math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))


def wino_ranks(speeds: dict[str, float], counts) -> str:
    names = [name for name in (row["model"] for row in PRINTED["4"]) if name in speeds and counts("wino", name)]
    by = {kind: spearman([speeds[name] for name in names], [counts(kind, name) for name in names])
          for kind in ("wino", "flops")}  # fmt: skip
    return "met" if by["wino"] < by["flops"] else "not met"


def check_row(row: dict[str, str], verdicts: dict[str, str]) -> None:
    """One ledger row against the verdicts of its terms, by term."""
    terms = list(verdicts)
    decided = {term: word for term, word in verdicts.items() if word is not None}
    where = (row["id"], row["source"], row["setting"])
    if not decided:
        assert (row["part"], row["verdict_number"]) == ("no part", "not tested"), where
        return
    assert row["verdict_number"] == joined(list(decided.values())), where
    n_terms = len(terms_of(CLAIMS[row["id"]]))
    expected = "whole claim" if len(decided) == n_terms == len(terms) else " and ".join(map(plain, decided))
    assert re.sub(r", (120|200)-epochs\)", ")", row["part"]) == expected, where


# --- speeds that others published -------------------------------------------------------------------------------------
SPEEDS = table(PAPER / "third_party_speed.csv")


def published_speeds(source: str, px: str) -> dict[str, dict[str, str]]:
    mine = [row for row in SPEEDS if row["source_file"] == source]
    return {row["model"]: row for row in mine if row["model"] != "EfficientNet-B3" or row["input_px"] == px}


def speed_finder(mine: dict[str, dict[str, str]], *, any_form: bool = False):
    def find(name: str, model: str, words: list[str]) -> float | None:
        if name == "speed":
            row = mine.get(model)
            wanted = "train" if "train" in words else "deploy"
            # Both forms of one network are never in one table, so none is shown in place of the other.
            if any_form and wanted == "train":
                return None
            fits = row and (any_form or row["form"] in ("as built", wanted))
            return float(row["images_per_s"]) if fits else None
        if name == "flops" and model == "EfficientNet-B3":
            return counted("flops", model, "deploy", int(mine[model]["input_px"])) if model in mine else None
        return exact(name, model, words)

    return find


def speed_values(claim: dict[str, str], mine: dict[str, dict[str, str]]) -> dict[str, float]:
    """The measured side of each term that has published speeds, whatever their form."""
    found = {}
    for term in terms_of(claim):
        sides = value_of(term, speed_finder(mine, any_form=True))
        if sides is not None and not is_count(term):
            found[plain(term)] = sides[0][len(sides[1]) - 1]
    return found


def check_value(row: dict[str, str], values: dict[str, float]) -> None:
    """A row about one term shows the value of its measured side."""
    part = re.sub(r", (120|200)-epochs\)", ")", row["part"])
    if part in ("whole claim", "no part") and len(values) == 1:
        (part,) = values
    if part in values:
        assert float(row["value"].split(" vs ")[0]) == pytest.approx(values[part], rel=1e-5), row


def speed_verdicts(claim: dict[str, str], mine: dict[str, dict[str, str]], *, any_form: bool = False) -> dict:
    find = speed_finder(mine, any_form=any_form)
    found = {}
    for term in terms_of(claim):
        if term == "check(wino-ranks-speed)" and all(row["form"] != "train" for row in mine.values()):
            speeds = {model: float(row["images_per_s"]) for model, row in mine.items()}
            found[term] = wino_ranks(speeds, lambda kind, model: 0 if model.startswith("EfficientNet")
                                     else counted(kind, model, "deploy"))  # fmt: skip
        elif "check(" not in term and not is_count(term):
            found[term] = verdict(term, find)
    return found


def test_speeds_of_others_follow_from_the_published_rows():
    expected = set()
    for claim in CLAIMS.values():
        for source in sorted({row["source_file"] for row in SPEEDS}):
            for px in ("288", "320"):
                mine = published_speeds(source, px)
                in_terms = [term for term, word in speed_verdicts(claim, mine).items() if word] or [
                    term for term, word in speed_verdicts(claim, mine, any_form=True).items() if word]  # fmt: skip
                with_b3 = any("EfficientNet-B3" in term for term in in_terms)
                if in_terms and (px == "320" or with_b3) and (not with_b3 or "EfficientNet-B3" in mine):
                    expected.add((claim["id"], f"timm, {source}", px if with_b3 else ""))
    found = set()
    for row in rows_of("measured by others"):
        px = match[1] if (match := re.search(r"EfficientNet-B3 at (\d+) px", row["setting"])) else ""
        found.add((row["id"], row["source"], px))
        mine = published_speeds(row["source"].removeprefix("timm, "), px or "320")
        verdicts = speed_verdicts(CLAIMS[row["id"]], mine)
        check_row(row, verdicts)
        assert row["verdict_inference"] == ("inconclusive" if any(verdicts.values()) else "not tested")
        assert (row["low"], row["high"]) == ("", ""), "no interval was published"
        lines = [int(line) for line in re.findall(r"third_party_speed.csv line (\d+)", row["evidence"])]
        rows = [SPEEDS[line - 2] for line in lines]
        assert rows and {one["source_file"] for one in rows} == {row["source"].removeprefix("timm, ")}
        check_value(row, speed_values(CLAIMS[row["id"]], mine))
    assert found == expected


# --- accuracies that others published ---------------------------------------------------------------------------------
def accuracy_sources() -> dict[tuple[str, str, str], list[dict[str, str]]]:
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in table(PAPER / "third_party_accuracy.csv"):
        if "authors" not in row["kind"]:
            released = row["kind"].startswith("official")
            form = "training form" if row["model_form"] == "training" else "converted form"
            key = ("re-evaluated by others" if released else "retrained by others", row["source"], form)
            recipe = next((one["recipe"] for one in PRINTED["released"] if one["model"] == row["model"]), "")
            groups.setdefault(key, []).append(row | {"recipe": recipe if released else row["recipe"]})
    for row in table(PAPER / "timm_reference.csv"):
        recipe = next((one["recipe"] for one in PRINTED["released"] if one["model"] == row["model"]), "other")
        groups.setdefault(("re-evaluated by others", "timm, results/", "training form"), []).append(
            row | {"input_px": row["img_size_px"], "recipe": recipe, "n_images": "50000"})  # fmt: skip
    return groups


def accuracy_verdicts(claim: dict, key: tuple[str, str, str], rows: list[dict], *, any_recipe: bool = False) -> dict:
    retrained = key[0] == "retrained by others"

    def find(name: str, model: str, words: list[str]) -> float | None:
        if name != "top1":
            return exact(name, model, words) if name not in ("speed", "miou", "density") else None
        if ("retrained" in words and not retrained) or ("released" in words and retrained):
            return None
        px = next((word[:-2] for word in words if word.endswith("px")), {"EfficientNet-B3": "300"}.get(
            model, "320" if model == "RepVGG-D2se" else "224"))  # fmt: skip
        wanted = next((word for word in words if word.endswith("-epochs")), None)
        for row in rows:
            if (row["model"], row["input_px"]) == (model, px):
                public = "NOT the baseline" in row["kind"]
                fits = any_recipe or not (public or (wanted and row["recipe"] != wanted))
                return float(row["top1_pct"]) if fits else None
        return None

    margin = float(claim["tolerance_retrained" if retrained else "tolerance_released"] or 0)
    found = {}
    for term in terms_of(claim):
        if "check(" not in term and not is_count(term):
            spread = SPREAD * math.sqrt(len(QUANTITY.findall(term))) if retrained else 0.0
            found[term] = verdict(term, find, margin, spread)
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return 100 * (centre - half), 100 * (centre + half)


def test_accuracies_of_others_follow_from_the_published_rows():
    sources = accuracy_sources()
    found, expected = set(), set()
    for claim in CLAIMS.values():
        for key, rows in sources.items():
            if any(any(accuracy_verdicts(claim, key, rows, any_recipe=off).values()) for off in (False, True)):
                expected.add((claim["id"], *key))
    for row in LEDGER:
        key = (row["evidence_class"], row["source"], row["setting"])
        if row["setting"] == "both forms":
            values = {}
            for one in table(PAPER / "third_party_accuracy.csv"):
                if one["source"] == row["source"]:
                    values.setdefault(one["model"], []).append(float(one["top1_pct"]))
            largest = max(abs(a - b) for a, b in values.values())
            assert f"at most {largest:.3f} points ({len(values)} networks)" in row["value"] and largest <= 0.05
            assert row["verdict_number"] == "met"
        elif key in sources:
            found.add((row["id"], *key))
            verdicts = accuracy_verdicts(CLAIMS[row["id"]], key, sources[key])
            check_row(row, verdicts)
            assert row["verdict_inference"] in ("inconclusive", "not tested") or key[0] == "re-evaluated by others"
            check_wilson(row, verdicts, sources[key])
    assert found == expected


def check_wilson(row: dict[str, str], verdicts: dict, published: list[dict[str, str]]) -> None:
    single = [term for term, word in verdicts.items() if word and len(QUANTITY.findall(term)) == 1]
    if not row["low"]:
        return
    model = QUANTITY.search(single[0])[2].split(",")[0]
    px = re.search(r"(\d+)px", single[0])
    mine = next(one for one in published if one["model"] == model and (not px or one["input_px"] == px[1]))
    shift = float(match[1]) if (match := re.search(r"\) - ([0-9.]+)", single[0])) else 0.0
    n = int(mine["n_images"])
    low, high = wilson(round(float(mine["top1_pct"]) / 100 * n) / n, n)
    assert float(row["low"]) == pytest.approx(low - shift, rel=1e-4, abs=1e-4), row
    assert float(row["high"]) == pytest.approx(high - shift, rel=1e-4, abs=1e-4), row


# --- what is printed, and what is counted -----------------------------------------------------------------------------
def printed(name: str, model: str, words: list[str]) -> float | None:
    """A printed number of Tables 1 to 8, of the text or of the README."""

    def cell(number: str, column: str) -> float | None:
        found = next((row for row in PRINTED[number] if row["model"] == model), None)
        return float(found[column]) if found and found[column] else None

    if "retrained" in words:
        return next(float(row["top1_pct"]) for row in table(PAPER / "third_party_accuracy.csv")
                    if "authors" in row["kind"] and row["model"] == model)  # fmt: skip
    if name == "density":
        return next(float(row["density_tflops"]) for row in PRINTED["1"] if row["kernel_size"] == model)
    if name == "miou":
        return cell("8", "mean_iou_pct")
    if name == "top1":
        if px := next((word[:-2] for word in words if word.endswith("px")), None):
            return next((float(row["top1_official_pct"]) for row in PRINTED["released"]
                         if (row["model"], row["test_px"]) == (model, px)), None)  # fmt: skip
        epochs = "200" if "200-epochs" in words else "120"
        return next((float(row["top1_pct"]) for number in "4567" for row in PRINTED[number]
                     if (row["model"], row["epochs"]) == (model, epochs)), None)  # fmt: skip
    if name == "speed" and "train" in words:
        return cell("6", "speed_without_reparam_examples_per_s")
    if name == "speed" and model.startswith("PSPNet"):
        return cell("8", "speed_examples_per_s")
    column = {"speed": "speed_examples_per_s", "params": "params_m", "flops": "flops_b", "wino": "wino_muls_b"}.get(
        name
    )
    return None if column is None or "train" in words else cell("4", column) or cell("5", column)


def check_both_sides(row: dict[str, str], claim: dict[str, str], find) -> None:
    """The value of a row that shows both sides of its comparisons, in the digits of the source."""
    column = "condition_on_printed_numbers" if row["evidence_class"] == "printed" else "condition"
    shown = {tuple(part.split(" vs ")) for part in row["value"].split("; ") if " vs " in part and "Wino" not in part}
    sides = [found[0] for term in terms_of(claim, column) if (found := value_of(term, find))]
    for pair in shown:
        numbers = [float(side.replace(",", "")) for side in pair]
        assert any(numbers == pytest.approx(one, rel=1e-5) for one in sides), (row["id"], pair)


def test_printed_rows_follow_from_the_tables():
    found, expected = {row["id"]: row for row in rows_of("printed")}, set()
    assert len(found) == len(rows_of("printed"))
    for claim in CLAIMS.values():
        verdicts = {}
        margin = float(claim["tolerance_retrained"]) if claim["id"] == "P03" else 0.0
        for term in terms_of(claim, "condition_on_printed_numbers"):
            if term == "check(wino-ranks-speed)":
                speeds = {row["model"]: float(row["speed_examples_per_s"]) for row in PRINTED["4"]}
                verdicts[term] = wino_ranks(speeds, lambda kind, model: printed(kind, model, []))
            elif term == "check(every-baseline-matched)":
                verdicts[term] = "met"  # the claim's own row says for which networks, and test_facts checks the tables
            elif "check(" not in term:
                verdicts[term] = verdict(term, printed, margin)
        if any(verdicts.values()):
            expected.add(claim["id"])
            assert found[claim["id"]]["verdict_number"] == joined([word for word in verdicts.values() if word])
            assert found[claim["id"]]["verdict_inference"] == "inconclusive"
            assert claim["holds_on_printed_numbers"].startswith(("yes", "one source"))
            check_both_sides(found[claim["id"]], claim, printed)
            assert re.fullmatch(r"official README|the paper, (text|Table \d(, \d)*)", found[claim["id"]]["source"])
    assert set(found) == expected
    assert (found["C04"]["source"], found["C46"]["source"]) == ("the paper, Table 4, 5", "the paper, Table 4")


def test_counted_rows_follow_from_the_counts():
    found = {row["id"]: row for row in rows_of("counted")}
    structural = {"C06", "C07", "C09", "C13", "C14", "C19", "C33"}
    expected = set(structural)
    for claim in CLAIMS.values():
        verdicts = {term: verdict(term, exact) for term in terms_of(claim) if is_count(term)}
        if verdicts:
            expected.add(claim["id"])
            row = found[claim["id"]]
            assert row["verdict_number"] == joined(list(verdicts.values())), claim["id"]
            check_both_sides(row, claim, exact)
            assert row["verdict_inference"] == ("reproduced" if row["verdict_number"] == "met" else "contradicted")
    assert set(found) == expected
    assert all(found[name]["verdict_number"] == "met" for name in structural)
    assert found["C09"]["value"] == "16/36" and found["C13"]["value"] == "RepVGG 1; ResNet 2, 3"


# --- what was measured here -------------------------------------------------------------------------------------------
@cache
def raw_samples(device: str) -> list[dict]:
    from pyarrow import parquet

    folder = ROOT / "results" / "devices" / device / "speed" / device
    return [
        sample | {"run": path.stem}
        for path in sorted(folder.glob("*measure-speed*.parquet"))
        for sample in parquet.read_table(path).to_pylist()
        if sample["role"] == "timed" and sample["form"] == "deploy"
    ]


def paired_ratio(first: list[dict], second: list[dict]) -> float | None:
    """The median over the rounds of how many times as fast `first` is; None if no round holds both."""
    seconds = {(one["run"], one["group"], one["start"], one["round"]): one["seconds"] for one in second}
    ratios = [seconds[place] / one["seconds"] for one in first
              if (place := (one["run"], one["group"], one["start"], one["round"])) in seconds]  # fmt: skip
    return statistics.median(ratios) if ratios else None


def measured_ratio(device: str, setting: tuple, top: str, bottom: str) -> float:
    """The ratio of two networks from the raw samples, if need be through a network that was timed with both."""
    by_model: dict[str, list[dict]] = {}
    for one in raw_samples(device):
        if (one["precision"], one["backend"], one["batch_size"]) == setting:
            by_model.setdefault(one["model"], []).append(one)
    direct = paired_ratio(by_model[top], by_model[bottom])
    if direct is not None:
        return direct
    chains = ((paired_ratio(by_model[top], part), paired_ratio(part, by_model[bottom])) for part in by_model.values())
    return next(first * second for first, second in chains if first and second)


SPEED_ORDER = re.compile(r"speed\(([^,()]+)\) ([<>]) speed\(([^,()]+)\)")
SPEED_RATIO = re.compile(r"speed\(([^,()]+)\)/speed\(([^,()]+)\) >= ([0-9.]+)")


def test_orders_measured_here_follow_from_the_raw_samples():
    checked = 0
    for row in rows_of("measured here"):
        part = CLAIMS[row["id"]]["condition"] if row["part"] == "whole claim" else plain(row["part"])
        if "speed(" not in part:
            continue
        terms = [term for term in part.split(" and ") if not term.startswith("check(")]
        orders = [match for term in terms if (match := SPEED_ORDER.fullmatch(term) or SPEED_RATIO.fullmatch(term))]
        if len(orders) != len(terms) or (len(terms) == 1 and row["part"] != "whole claim" and "/" in terms[0]):
            continue  # ratios are in the next test, train forms and densities are followed elsewhere
        precision, backend, _, batch = row["setting"].split(", ")
        setting = (precision, backend, int(batch.removeprefix("batch ")))
        holds = []
        for match in orders:
            if match.re is SPEED_RATIO:
                holds.append(measured_ratio(row["device"], setting, match[1], match[2]) >= float(match[3]))
            else:
                fast, slow = (match[3], match[1]) if match[2] == "<" else (match[1], match[3])
                holds.append(measured_ratio(row["device"], setting, fast, slow) > 1)
        if row["verdict_number"] == "open":
            assert "disturbed" in row["reason"], row
        else:
            assert row["verdict_number"] == ("met" if all(holds) else "not met"), row
        checked += 1
    assert checked > 20


def test_rows_measured_here_follow_from_the_device_rows():
    checked = 0
    for row in rows_of("measured here"):
        match = SPEED_RATIO.fullmatch(plain(row["part"]))
        if match is None:
            continue
        precision, backend, _, batch = row["setting"].split(", ")
        ratio = measured_ratio(
            row["device"], (precision, backend, int(batch.removeprefix("batch "))), match[1], match[2]
        )
        assert ratio == pytest.approx(float(row["value"]), rel=0.03), (row["id"], row["setting"])
        low, high, bound = float(row["low"]), float(row["high"]), float(match[3])
        assert low <= float(row["value"]) <= high
        if row["verdict_number"] == "met":
            assert low >= bound
        elif row["verdict_number"] == "not met":
            assert high < bound
        else:
            assert low < bound <= high or "disturbed" in row["reason"], row
        checked += 1
    assert checked > 30


def device_table(device: str, name: str) -> list[dict[str, str]]:
    return table(ROOT / "results" / "devices" / device / f"{name}.csv")


def test_settings_measured_here_are_those_of_the_rows_that_they_name():
    checked = 0
    for row in rows_of("measured here"):
        named = re.findall(r"speed\.csv (\S+) (\S+) (\S+) (\S+) (\S+) batch (\d+)", row["evidence"])
        if not named:
            continue
        precision, backend, memory_format, batch = row["setting"].split(", ")
        rows = device_table(row["device"], "speed")
        for run, model, form, *words in named:
            assert words == [precision, backend, batch.removeprefix("batch ")], row
            names = ("run_id", "model", "form", "precision", "backend", "batch_size")
            found = [one for one in rows if tuple(one[name] for name in names) == (run, model, form, *words)]
            assert memory_format in {one["memory_format"] for one in found} | {"best of each"}, row
            own = [one for one in found if memory_format in (one["memory_format"], "best of each")]
            flags = {flag for one in own for flag in one["flags"].split("; ") if flag.startswith(
                ("busy", "throttled", "drift", "spread"))}  # fmt: skip
            if "disturbed" in row["reason"] and memory_format != "best of each" and "check(" not in row["part"]:
                assert all(flag in row["reason"] for flag in flags), (row, flags)
            assert not flags or row["verdict_number"] == "open" or memory_format == "best of each", (row, flags)
        checked += 1
    assert checked > 60


def test_kernel_sizes_and_feature_maps_measured_here_follow_from_the_device_rows():
    kernels = [row for row in rows_of("measured here") if row["id"] == "C08"]
    for row in kernels:
        precision, backend, memory_format, batch = row["setting"].split(", ")
        density = {one["kernel_size"]: float(one["tflops"]) for one in device_table(row["device"], "kernel_size")
                   if (one["precision"], one["backend"], one["memory_format"]) == (precision, backend, memory_format)
                   and one["batch_size"] == batch.removeprefix("batch ")}  # fmt: skip
        ratios = [density["3"] / density[size] for size in ("1", "5", "7")]
        assert [float(part) for part in row["value"].split("; ")] == pytest.approx(ratios, rel=1e-5)
        assert (row["part"], row["verdict_number"]) == ("no part", "not tested") and "2048 channels" in row["reason"]
    devices = {row["device"] for row in kernels}
    measured = [one for device in devices for one in device_table(device, "kernel_size")]
    assert len(kernels) == len({(one["device"], one["precision"], one["memory_format"]) for one in measured})
    (maps,) = [row for row in rows_of("measured here") if row["id"] == "C14"]
    most = {}
    for one in device_table(maps["device"], "memory"):
        if one["form"] == "deploy" and one["layer"] != "whole-network" and one["live_feature_map_mib"]:
            most.setdefault((one["model"], one["run_id"]), []).append(float(one["live_feature_map_mib"]))
    ratios = {model: max(values) / values[0] for (model, _), values in most.items()}
    residual, plain = (
        next(ratio for model, ratio in ratios.items() if model.startswith(word)) for word in ("ResNet", "RepVGG")
    )
    assert maps["value"] == f"{residual:.2f}x vs {plain:.2f}x" and maps["verdict_number"] == "met"


def test_rank_correlations_and_shares_of_flops_measured_here_follow_from_the_device_rows():
    checked = 0
    for row in rows_of("measured here"):
        named = re.findall(r"speed\.csv (\S+) (\S+) deploy (\S+) (\S+) batch (\d+)", row["evidence"])
        rows = device_table(row["device"], "speed") if named else []
        memory_format = row["setting"].split(", ")[2] if named else ""
        speeds = {}
        for run, model, precision, backend, batch in named:
            names = ("run_id", "model", "form", "precision", "backend", "batch_size", "memory_format")
            wanted = (run, model, "deploy", precision, backend, batch, memory_format)
            (own,) = [one for one in rows if tuple(one[name] for name in names) == wanted] or [None]
            speeds[model] = float(own["examples_per_s"]) if own else math.nan
        if "Spearman" in row["value"]:
            wino, flops = (float(part) for part in re.findall(r"(-[0-9.]+) \(", row["value"]))
            models = [one["model"] for one in PRINTED["4"] if not one["model"].startswith("EfficientNet")]
            values = [speeds[model] for model in models]
            for kind, shown in (("wino", wino), ("flops", flops)):
                counts = [counted(kind, model, "deploy") for model in models]
                assert spearman(values, counts) == pytest.approx(shown, abs=0.0051), row
            assert f"; {len(models)} networks; they are no sample" in f"; {row['reason']}".replace("disturbed; ", "; ")
            checked += 1
        elif row["id"] == "C12":
            factor = counted("flops", "VGG-16", "deploy") / counted("flops", "EfficientNet-B3", "deploy")
            precision, backend, _, batch = row["setting"].split(", ")
            setting = (precision, backend, int(batch.removeprefix("batch ")))
            value = factor * measured_ratio(row["device"], setting, "VGG-16", "EfficientNet-B3")
            assert float(row["value"]) == pytest.approx(value, rel=0.03), row
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"]) < 14
            assert row["verdict_number"] == ("open" if "disturbed" in row["reason"] else "not met"), row
            checked += 1
    assert checked == 8
