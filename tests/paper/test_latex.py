"""Every table, caption and number compiles, and no table is wider than its page. Needs a TeX engine."""

import re
import shutil
import subprocess

import pytest
from paper_synthetic import PAPER

from repvgg_companion.__main__ import main

ENGINE = shutil.which("pdflatex")
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[letterpaper,margin=0.75in,columnsep=0.3in]{geometry}
\usepackage{booktabs,threeparttable,graphicx}
\graphicspath{{figures/}}
\begin{document}
\input{tables/numbers}
RepVGG-A0: \repvggXTopOneAZero{} [\repvggXTopOneLowAZero{}, \repvggXTopOneHighAZero{}] \cite{repvgg-companion}.
INPUTS
\bibliographystyle{plain}\bibliography{figures/references}
\end{document}
"""


@pytest.mark.skipif(ENGINE is None, reason="no pdflatex here; on Debian and Ubuntu: apt install texlive-latex-extra")
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
