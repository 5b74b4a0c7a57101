"""Every table, caption and number compiles, and no table is wider than its page. Needs a TeX engine."""

import re
import shutil
import subprocess

import pytest
from paper_synthetic import PAPER

from repvgg_companion.__main__ import main
from repvgg_companion.evidence.from_studies import read_studies
from repvgg_companion.evidence.study_picture import pair_rows
from repvgg_companion.paper.latex import as_latex
from repvgg_companion.paper.printed import Facts

ENGINE = shutil.which("pdflatex")
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[letterpaper,margin=0.75in,columnsep=0.3in]{geometry}
\usepackage{booktabs,threeparttable,rotating,graphicx}
\graphicspath{{figures/}}
\begin{document}
\input{tables/numbers}
RepVGG-A0: \repvggXTopOneAZero{} [\repvggXTopOneLowAZero{}, \repvggXTopOneHighAZero{}] \cite{repvgg-companion}.
INPUTS
\bibliographystyle{plain}\bibliography{figures/references}
\end{document}
"""


PLAIN = r"""\documentclass{article}
\usepackage{booktabs,threeparttable,rotating}
\begin{document}
INPUTS
\end{document}
"""
NEEDS_ENGINE = pytest.mark.skipif(
    ENGINE is None, reason="no pdflatex here; on Debian and Ubuntu: apt install texlive-latex-extra"
)


@NEEDS_ENGINE
def test_no_table_is_wider_than_the_text_of_a_plain_article_or_in_smaller_text_than_script_size(demo, tmp_path):
    for experiment, results in (("x", demo), ("reference", PAPER.parent / "results" / "devices")):
        options = ["--experiment", experiment, "--results", str(results), "--paper", str(PAPER)]
        assert main(["tables", *options, "--output", str(tmp_path / experiment)]) == 0
    facts = Facts(PAPER)
    studies = read_studies(PAPER.parent / "results" / "studies", facts)
    for study in studies:
        (tmp_path / f"{study.name}.tex").write_text(as_latex(pair_rows(study), "Pairs.", study.name))
    files = [path for path in sorted(tmp_path.rglob("*.tex")) if path.stem != "numbers"]
    assert len(files) == 2 * 8 + len(studies) and len(studies) >= 3
    for path in files:
        text = path.read_text()
        assert {"footnotesize", "scriptsize"} >= set(re.findall(r"\\(\w+size|tiny)\b", text)), path
        (tmp_path / "plain.tex").write_text(PLAIN.replace("INPUTS", text))
        command = [ENGINE, "-interaction=nonstopmode", "-halt-on-error", "plain"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
        log = (tmp_path / "plain.log").read_text(errors="replace").replace("\n", "")
        wide = re.findall(r"Overfull \\[hv]box \(([0-9.]+)pt", log)
        assert not [points for points in wide if float(points) > 1] and "Float too large" not in log, path


@NEEDS_ENGINE
def test_all_tables_figures_and_numbers_compile_on_a_page(demo, tmp_path):
    options = ["--experiment", "x", "--results", str(demo), "--paper", str(PAPER)]
    assert main(["tables", *options, "--output", str(tmp_path / "tables")]) == 0
    assert main(["figures", *options, "--output", str(tmp_path / "figures"), "--only", "figure3", "table1"]) == 0
    files = sorted(tmp_path.glob("tables/table*.tex")) + sorted(tmp_path.glob("figures/*.tex"))
    assert len(files) == 8 + 2
    inputs = "\n".join(rf"\input{{{path.relative_to(tmp_path)}}}\clearpage" for path in files)
    (tmp_path / "page.tex").write_text(DOCUMENT.replace("INPUTS", inputs))
    for command in ([ENGINE, "-interaction=nonstopmode", "-halt-on-error", "page"], ["bibtex", "page"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "page.log").read_text(errors="replace").replace("\n", "")
    wide = re.findall(r"Overfull \\hbox \(([0-9.]+)pt", log)
    assert not [points for points in wide if float(points) > 1], "a table or figure is wider than its page"
    assert "Table 4: Table" not in log and (tmp_path / "page.bbl").read_text().count("\\bibitem") == 2
